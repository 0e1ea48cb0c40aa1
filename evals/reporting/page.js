"use strict";
// Shows the transcripts that fit all filters. Nothing a model wrote is read as HTML: texts are compared, not inserted.
const filters = [...document.querySelectorAll("[data-filter]")];
const transcripts = [...document.querySelectorAll("details.transcript")];
const count = document.getElementById("shown");
function fits(transcript, filter) {
  const wanted = filter.value;
  if (!wanted) return true;
  if (filter.dataset.filter === "text") return transcript.textContent.toLowerCase().includes(wanted.toLowerCase());
  return transcript.dataset[filter.dataset.filter] === wanted;
}
function show() {
  let shown = 0;
  for (const transcript of transcripts) {
    transcript.hidden = !filters.every((filter) => fits(transcript, filter));
    shown += !transcript.hidden;
  }
  count.textContent = String(shown);
}
for (const filter of filters) filter.addEventListener("input", show);
