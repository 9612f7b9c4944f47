// What a new run is asked for, in words. `place` is the name in the run's configuration, as the HTTP interface has it.

/** How neurons are chosen, by the names of the configuration. */
export const SELECTIONS = {
  "fisher": "Fisher: each device keeps the neurons that matter most for its own examples",
  "fisher-cohort": "Fisher, together: all keep those that matter most for the fleet",
  "random": "Random: drawn for each device afresh",
  "magnitude": "Magnitude: those with the largest weights",
  "prefix": "Prefix: the first ones of every layer",
  "rolling": "Rolling: a window that moves on",
  "full": "Full: all neurons on every device",
};

/** Sections of the form, each with its fields; what is left empty is the default. */
export const SECTIONS = [
  {
    title: "Rounds",
    fields: [
      { place: "rounds", label: "Rounds", help: "In each one devices train for a moment, and their updates become the next version of the model." },
      { place: "min_devices", label: "Devices to wait for", help: "The first round opens once so many are online." },
      { place: "participation", label: "Share of devices in a round", help: "1 for all that are online; 0.1 draws one in ten." },
      { place: "quorum", label: "Updates that a round needs", help: "With fewer it goes on beyond its time limit." },
      { place: "round_seconds", label: "Time limit of a round, in seconds", help: "Who is not heard by then is not waited for. Slow boards and links want minutes." },
    ],
  },
  {
    title: "Training on a device",
    fields: [
      { place: "keep", label: "Share of neurons kept", help: "A device trains and sends only these: 0.5 is half of every layer. Devices with limits of their own may keep fewer." },
      { place: "selection", label: "Which neurons", options: SELECTIONS, help: "In a private run: random, magnitude, prefix, rolling or full, or record privacy with noise for scores." },
      { place: "local_steps", label: "Steps a round", help: "How long a device trains before it sends. More steps, fewer rounds; too many, and unequal devices drift apart." },
      { place: "batch_size", label: "Examples a step", help: "In a run with record privacy, about the sampling rate times the examples that a device has." },
      { place: "learning_rate", label: "Learning rate", help: "How far a step goes. Lower it where the loss jumps." },
    ],
  },
];

/** What can be promised, by the word in the configuration, with the fields that each takes. */
export const PROMISES = {
  none: {
    label: "None: updates tell of the examples as they are",
    help: "Examples stay on their devices, but who opens updates can learn much about them. Devices whose owners want private runs only take no part.",
    fields: [],
  },
  record: {
    label: "Record: no update tells much of any one example",
    help: "Each device clips what an example does to its training and adds noise before anything is sent. Put \"training\": {} into the advanced settings: gains and clipped batches are for training without noise.",
    fields: ["epsilon", "delta", "clip_norm", "sampling_rate", "score_noise_multiplier"],
  },
  device: {
    label: "Device: no update tells much of any one device",
    help: "Each device clips its whole update and adds noise. One update carries little then: for large fleets.",
    fields: ["epsilon", "delta", "clip_norm"],
  },
};

/** Fields of a promise; those that are `needed` have no default. */
export const PROMISE_FIELDS = [
  { place: "privacy.epsilon", label: "Epsilon", needed: true, help: "What a device that takes part in all rounds may spend, 0.05 to 50; the server finds the noise for it. At 1 who has seen everything is at most 73 % sure, at 4 at most 98 %. A device's own cap (10, or what its owner wrote) is never passed." },
  { place: "privacy.delta", label: "Delta", help: "How likely the promise may fail; far below one over the number of records. Left empty, 0.00001." },
  { place: "privacy.clip_norm", label: "Clip norm", needed: true, help: "The longest gradient of an example, or update of a device, that goes in whole; longer ones are shrunk to it. Often about 1." },
  { place: "privacy.sampling_rate", label: "Sampling rate", needed: true, help: "How likely an example is to be in a step, above 0 and at most 1. Often 0.05; smaller costs less epsilon a step." },
  { place: "privacy.score_noise_multiplier", label: "Noise of scores", help: "Only where neurons are chosen by Fisher scores, which cost epsilon too: 10 to 100. Left empty, no scores are told." },
];
