// Ask before anything is done; the dialog stays open with the reason where it could not be done.

/**
 * Ask `{ title, text, yes, field }`; `field` is the label of a value to type. `act(value)` is called on yes. Returns
 * whether it was done.
 */
export function confirmed({ title, text, yes, field = null }, act) {
  const dialog = document.getElementById("confirm");
  const [label, problem] = ["confirm-field", "confirm-problem"].map((id) => document.getElementById(id));
  const input = label.querySelector("input");
  const [cancel, go] = dialog.querySelectorAll("button");
  document.getElementById("confirm-title").textContent = title;
  document.getElementById("confirm-text").textContent = text;
  go.textContent = yes;
  label.hidden = field === null;
  label.querySelector("span").textContent = field ?? "";
  input.required = field !== null;
  input.value = "";
  problem.hidden = true;

  return new Promise((resolve) => {
    const form = dialog.querySelector("form");
    async function submit(event) {
      if (event.submitter === cancel) return;
      event.preventDefault();
      go.disabled = true;
      try {
        await act(input.value.trim());
        dialog.returnValue = "yes";
        dialog.close("yes");
      } catch (error) {
        problem.textContent = error.message;
        problem.hidden = false;
      } finally {
        go.disabled = false;
      }
    }
    form.addEventListener("submit", submit);
    dialog.addEventListener("close", () => {
      form.removeEventListener("submit", submit);
      resolve(dialog.returnValue === "yes");
    }, { once: true });
    dialog.returnValue = "";
    dialog.showModal();
    (field === null ? cancel : input).focus();
  });
}
