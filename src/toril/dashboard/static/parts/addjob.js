/** The dialog that adds a job, or an edited one again. */
import { useState } from "preact/hooks";
import { address, path, send } from "../lib/api.js";
import { html } from "../lib/html.js";
import { link } from "../lib/router.js";
import { FormDialog, ask } from "./dialog.js";
import { JsonEditor, fault } from "./jsoneditor.js";
import { toast } from "./toasts.js";

/**
 * Ask for a job and add it.
 * @param {{ queue?: string, name?: string, data?: string, options?: Record<string, unknown>, title?: string, note?: string, from?: string }} [start] `from`: the id of the job that it is made after
 * @returns {Promise<string | null>} the queue that it was added to
 */
export function addJob(start = {}) {
  return ask((close) => html`<${AddJob} ...${start} close=${close} />`);
}

/** @param {any} props */
function AddJob({ queue, name = "", data = "{\n  \n}", options = {}, title = "Add job", note, from, close }) {
  const [form, setForm] = useState({
    queue: queue || "",
    name,
    data,
    priority: String(options.priority ?? 0),
    delay: String(options.delay ?? 0),
    attempts: String(options.attempts || 1),
  });
  const set = (/** @type {string} */ key) => (/** @type {any} */ event) => setForm({ ...form, [key]: event.currentTarget.value });
  const whole = (/** @type {string} */ text) => /^\d+$/.test(text.trim());
  const ready = !!form.queue.trim() && !!form.name.trim() && !fault(form.data) && [form.priority, form.delay, form.attempts].every(whole);

  const submit = async () => {
    const opts = { ...options, priority: Number(form.priority), delay: Number(form.delay), attempts: Number(form.attempts) };
    if (!opts.priority) delete opts.priority;
    if (!opts.delay) delete opts.delay;
    // The data goes as it is written: no number changes its form on the way.
    const body = `{"name":${JSON.stringify(form.name)},"data":${form.data},"opts":${JSON.stringify(opts)}}`;
    const target = form.queue.trim();
    const answer = from
      ? await send("POST", address(`queues/${path(target)}/jobs/${path(from)}/copy`), { text: body })
      : await send("POST", address(`queues/${path(target)}/jobs`), { text: `[${body}]` });
    const added = await answer.json();
    const id = from ? added.id : added[0].id;
    toast("good", `${id} was added to ${target}`, { link: { to: link(["queues", target, "jobs", id]), text: "Open" } });
    return target;
  };
  return html`<${FormDialog} title=${title} large ready=${ready} submit=${submit} close=${close}>
    ${note && html`<p class="muted">${note}</p>`}
    <div class="fields">
      ${!queue && html`<label>Queue <input value=${form.queue} onInput=${set("queue")} autocomplete="off" autofocus /></label>`}
      <label>Name <input value=${form.name} onInput=${set("name")} autocomplete="off" autofocus=${!!queue} /></label>
    </div>
    <${JsonEditor} value=${form.data} label="Data, JSON" rows=${8} onChange=${(/** @type {string} */ text) => setForm({ ...form, data: text })} />
    <div class="fields">
      <label>Priority <input value=${form.priority} onInput=${set("priority")} inputmode="numeric" /></label>
      <label>Delay, ms <input value=${form.delay} onInput=${set("delay")} inputmode="numeric" /></label>
      <label>Attempts <input value=${form.attempts} onInput=${set("attempts")} inputmode="numeric" /></label>
    </div>
  <//>`;
}
