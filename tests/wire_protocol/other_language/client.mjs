// A Fisherfleet device's words in Node.js, written after docs/wire-protocol.md and with its standard library only.
// node client.mjs GOLDEN OUT: verify a plan, open a slice, seal an update, a decline and their manifests into OUT.
import crypto from "node:crypto";
import fs from "node:fs";
import path from "node:path";

// MessagePack: what the protocol needs of it, shortest forms when writing, all forms when reading.
function pack(value) {
  if (value === null) return Buffer.from([0xc0]);
  if (typeof value === "boolean") return Buffer.from([value ? 0xc3 : 0xc2]);
  if (value instanceof Float) { const b = Buffer.alloc(9); b[0] = 0xcb; b.writeDoubleBE(value.value, 1); return b; }
  if (typeof value === "number") return packInteger(value);
  if (typeof value === "string") { const b = Buffer.from(value); return Buffer.concat([head(b.length, 0xa0, 31, 0xd9, 0xda, 0xdb), b]); }
  if (Buffer.isBuffer(value)) return Buffer.concat([head(value.length, 0, -1, 0xc4, 0xc5, 0xc6), value]);
  if (Array.isArray(value)) return Buffer.concat([head(value.length, 0x90, 15, 0, 0xdc, 0xdd), ...value.map(pack)]);
  const entries = Object.entries(value);
  return Buffer.concat([head(entries.length, 0x80, 15, 0, 0xde, 0xdf), ...entries.flat().map(pack)]);
}
class Float { constructor(value) { this.value = value; } }
function head(count, fix, most, one, two, four) {
  if (count <= most) return Buffer.from([fix | count]);
  if (one && count < 256) return Buffer.from([one, count]);
  const b = Buffer.alloc(count < 65536 ? 3 : 5);
  b[0] = count < 65536 ? two : four;
  b.writeUIntBE(count, 1, b.length - 1);
  return b;
}
function packInteger(n) {
  if (n >= 0 && n < 128) return Buffer.from([n]);
  for (const [bytes, code] of [[1, 0xcc], [2, 0xcd], [4, 0xce]])
    if (n >= 0 && n < 256 ** bytes) { const b = Buffer.alloc(1 + bytes); b[0] = code; b.writeUIntBE(n, 1, bytes); return b; }
  const b = Buffer.alloc(9); b[0] = 0xcf; b.writeBigUInt64BE(BigInt(n), 1); return b;
}
function unpack(bytes) {
  let at = 0;
  const take = (n) => { if (at + n > bytes.length) throw new Error("cut short"); at += n; return bytes.subarray(at - n, at); };
  const count = (n) => take(n).readUIntBE(0, n);
  const array = (n) => Array.from({ length: n }, read);
  const map = (n) => Object.fromEntries(Array.from({ length: n }, () => [read(), read()]));
  function read() {
    const c = take(1)[0];
    if (c < 0x80) return c;
    if (c < 0x90) return map(c & 15);
    if (c < 0xa0) return array(c & 15);
    if (c < 0xc0) return take(c & 31).toString();
    if (c >= 0xe0) return c - 256;
    switch (c) {
      case 0xc0: return null;
      case 0xc2: case 0xc3: return c === 0xc3;
      case 0xc4: case 0xc5: case 0xc6: return take(count(1 << (c - 0xc4)));
      case 0xca: return take(4).readFloatBE();
      case 0xcb: return take(8).readDoubleBE();
      case 0xcc: case 0xcd: case 0xce: return count(1 << (c - 0xcc));
      case 0xcf: return Number(take(8).readBigUInt64BE());
      case 0xd9: case 0xda: case 0xdb: return take(count(1 << (c - 0xd9))).toString();
      case 0xdc: case 0xdd: return array(count(2 << (c - 0xdc)));
      case 0xde: case 0xdf: return map(count(2 << (c - 0xde)));
      default: throw new Error(`no such type ${c}`);
    }
  }
  const value = read();
  if (at !== bytes.length) throw new Error("bytes after the message");
  return value;
}

// Keys: raw 32 bytes.
const b64 = (bytes) => Buffer.from(bytes).toString("base64url");
const publicKey = (crv, x) => crypto.createPublicKey({ format: "jwk", key: { kty: "OKP", crv, x: b64(x) } });
const privateKey = (crv, d, x) => crypto.createPrivateKey({ format: "jwk", key: { kty: "OKP", crv, d: b64(d), x: b64(x) } });
const keyId = (keys) => crypto.createHash("sha256").update(keys.verifying).update(keys.sealing).digest().subarray(0, 8);
const context = (kind, { fleet, run = "", round = 0, device = "" }) => pack(["fisherfleet", kind, fleet, run, round, device]);

// Signed
function sign(body, info, keys) {
  const signature = crypto.sign(null, Buffer.concat([info, body]), privateKey("Ed25519", keys.signing, keys.verifying));
  return pack({ type: "signed", v: 1, signatures: [[keyId(keys), signature]], body });
}
function verify(payload, info, trusted) {
  const message = unpack(payload);
  if (message.v !== 1 || message.type !== "signed" || message.signatures.length > 2) throw new Error("not a Signed");
  for (const [id, signature] of message.signatures)
    for (const keys of trusted)
      if (id.equals(keyId(keys)) && crypto.verify(null, Buffer.concat([info, message.body]), publicKey("Ed25519", keys.verifying), signature))
        return message.body;
  throw new Error("no valid signature of a trusted key");
}

// Sealed: HPKE, RFC 9180, base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305.
const KEM = Buffer.from("KEM\x00\x20", "latin1"), HPKE = Buffer.from("HPKE\x00\x20\x00\x01\x00\x03", "latin1");
const hmac = (key, data) => crypto.createHmac("sha256", key).update(data).digest();
const extract = (suite, salt, label, ikm) => hmac(salt, Buffer.concat([Buffer.from("HPKE-v1"), suite, Buffer.from(label), ikm]));
const expand = (suite, prk, label, info, length) =>  // length is at most 32: one block of HKDF-Expand
  hmac(prk, Buffer.concat([Buffer.from([0, length]), Buffer.from("HPKE-v1"), suite, Buffer.from(label), info, Buffer.from([1])])).subarray(0, length);
function keyAndNonce(shared, enc, recipient, info) {
  const none = Buffer.alloc(0), noSalt = Buffer.alloc(32);
  const secret = expand(KEM, extract(KEM, noSalt, "eae_prk", shared), "shared_secret", Buffer.concat([enc, recipient]), 32);
  const schedule = Buffer.concat([Buffer.from([0]), extract(HPKE, noSalt, "psk_id_hash", none), extract(HPKE, noSalt, "info_hash", info)]);
  const prk = extract(HPKE, secret, "secret", none);
  return [expand(HPKE, prk, "key", schedule, 32), expand(HPKE, prk, "base_nonce", schedule, 12)];
}
function seal(body, info, sender, recipient) {
  const fresh = crypto.generateKeyPairSync("x25519");
  const enc = Buffer.from(fresh.publicKey.export({ format: "jwk" }).x, "base64url");
  const shared = crypto.diffieHellman({ privateKey: fresh.privateKey, publicKey: publicKey("X25519", recipient.sealing) });
  const cipher = crypto.createCipheriv("chacha20-poly1305", ...keyAndNonce(shared, enc, recipient.sealing, info), { authTagLength: 16 });
  const content = Buffer.concat([enc, cipher.update(sign(body, info, sender)), cipher.final(), cipher.getAuthTag()]);
  return pack({ type: "sealed", v: 1, key_id: keyId(recipient), content });
}
function open(payload, info, reader, trusted) {
  const message = unpack(payload);
  if (message.v !== 1 || message.type !== "sealed" || !message.key_id.equals(keyId(reader))) throw new Error("not for me");
  const enc = message.content.subarray(0, 32), sealed = message.content.subarray(32, -16);
  const shared = crypto.diffieHellman({ privateKey: privateKey("X25519", reader.opening, reader.sealing), publicKey: publicKey("X25519", enc) });
  const cipher = crypto.createDecipheriv("chacha20-poly1305", ...keyAndNonce(shared, enc, reader.sealing, info), { authTagLength: 16 });
  cipher.setAuthTag(message.content.subarray(-16));
  return verify(Buffer.concat([cipher.update(sealed), cipher.final()]), info, trusted);
}

const [golden, out] = process.argv.slice(2);
const file = (name) => fs.readFileSync(path.join(golden, name));
const write = (name, content) => fs.writeFileSync(path.join(out, name), content);
const known = Object.fromEntries(Object.entries(JSON.parse(file("identities.json"))).map(([name, keys]) =>
  [name, Object.fromEntries(Object.entries(keys).map(([field, hex]) => [field, Buffer.from(hex, "hex")]))]));
const here = { fleet: "fleet-1", run: "run-1", round: 3, device: "kitchen" };
const operators = JSON.parse(file("fleet.json")).operator.map((keys) =>
  ({ verifying: Buffer.from(keys.verifying, "base64"), sealing: Buffer.from(keys.sealing, "base64") }));
const refused = (attempt) => { try { attempt(); return false; } catch { return true; } };

const plan = unpack(verify(file("signed_plan.bin"), context("plan", { fleet: here.fleet, run: here.run }), operators));
const need = unpack(verify(file("signed_need.bin"), context("need", { fleet: here.fleet, device: here.device }), [known.old_operator]));
const slice = unpack(open(file("sealed_slice.bin"), context("slice", here), known.device, operators));
const altered = file("sealed_slice.bin"); altered[200] ^= 1;
const values = Buffer.from(slice.values);  // whatever training would have made of it
const update = { type: "update", v: 1, run: plan.run, round: plan.round, model_version: plan.model_version, examples: 1000, trained: 70000,
  scored: 0, kept: { fc1: Buffer.from("8140", "hex") }, precision: plan.precision, within: new Float(0.5), values };
const decline = { type: "decline", v: 1, run: plan.run, round: plan.round, cause: "data" };
for (const [name, message] of Object.entries({ update, decline })) {
  const payload = seal(pack(message), context("update", here), known.device, operators[0]);
  const manifest = { type: "manifest", v: 1, sha256: crypto.createHash("sha256").update(payload).digest(), size: payload.length, chunk_bytes: 126976 };
  write(`${name}.sealed`, payload);
  write(`${name}.manifest`, pack(manifest));
}
console.log(JSON.stringify({ plan, missing: need.missing, values: values.toString("hex"), refused: [
  refused(() => open(altered, context("slice", here), known.device, operators)),
  refused(() => open(file("sealed_slice.bin"), context("slice", { ...here, round: 4 }), known.device, operators)),
  refused(() => verify(file("signed_plan.bin"), context("plan", { fleet: "fleet-2", run: here.run }), operators)),
  refused(() => verify(file("signed_plan.bin"), context("plan", here), operators)),
  refused(() => verify(file("signed_plan.bin"), context("plan", { fleet: here.fleet, run: here.run }), [known.device])),
] }));
