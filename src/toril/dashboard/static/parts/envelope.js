/** The dialog that sends an envelope to a target. */
import { useState } from "preact/hooks";
import { act, parse } from "../lib/api.js";
import { html } from "../lib/html.js";
import { link } from "../lib/router.js";
import { may } from "../lib/session.js";
import { FormDialog, ask } from "./dialog.js";
import { JsonEditor, fault } from "./jsoneditor.js";
import { toast } from "./toasts.js";

/** @param {string[]} targets @param {string} [target] the one that is chosen @returns {Promise<string | null>} the id of the delivery */
export function sendEnvelope(targets, target) {
  return ask((close) => html`<${EnvelopeDialog} targets=${targets.filter((name) => may("deliveries:add", name))} target=${target} close=${close} />`);
}

/** @param {any} props */
function EnvelopeDialog({ targets, target, close }) {
  const [form, setForm] = useState({ target: target || targets[0] || "", method: "POST", path: "", body: '{\n  "test": true\n}' });
  const set = (/** @type {string} */ key) => (/** @type {any} */ event) => setForm({ ...form, [key]: event.currentTarget.value });
  const ready = !!form.target && (form.method === "GET" || !fault(form.body));
  const submit = async () => {
    const answer = await act("POST", "enqueue", {
      target: form.target, method: form.method, labels: { test: "dashboard" }, ...(form.path ? { path: form.path } : {}), ...(form.method === "GET" ? {} : { body: parse(form.body) }),
    });
    toast("good", `${answer.job_id} was accepted`, { link: { to: link(["deliveries", answer.job_id]), text: "Open" } });
    return answer.job_id;
  };
  return html`<${FormDialog} title="Send test envelope" large ready=${ready} submit=${submit} close=${close}>
    <div class="fields">
      <label>Target <select value=${form.target} onChange=${set("target")} autofocus>${targets.map((/** @type {string} */ name) => html`<option key=${name}>${name}</option>`)}</select></label>
      <label>Method <select value=${form.method} onChange=${set("method")}>${["POST", "PUT", "PATCH", "DELETE", "GET"].map((one) => html`<option key=${one}>${one}</option>`)}</select></label>
      <label>Path <input placeholder="/" value=${form.path} onInput=${set("path")} autocomplete="off" /></label>
    </div>
    ${form.method !== "GET" && html`<${JsonEditor} value=${form.body} label="Body, JSON" rows=${6} onChange=${(/** @type {string} */ text) => setForm({ ...form, body: text })} />`}
    <p class="muted">It is sent for real, with the label test=dashboard.</p>
  <//>`;
}
