/** Dialogs: one at a time, over the page, closed by Escape. */
import { signal } from "@preact/signals";
import { useEffect, useRef, useState } from "preact/hooks";
import { html } from "../lib/html.js";
import { told } from "./toasts.js";

/** @type {import("@preact/signals").Signal<{ view: any, close: (value: any) => void } | null>} */
const open = signal(null);

/**
 * Show a dialog; resolves to what it closes with, null for Cancel.
 * @param {(close: (value: any) => void) => any} view
 * @returns {Promise<any>}
 */
export function ask(view) {
  return new Promise((resolve) => {
    const close = (/** @type {any} */ value) => {
      open.value = null;
      resolve(value);
    };
    open.value = { view: view(close), close };
  });
}

/**
 * A form in a dialog. It stays, with what was typed in it, until its work is done or it is cancelled.
 * @param {{ title: any, large?: boolean, danger?: boolean, ready?: boolean, first?: boolean, submit: () => Promise<any> | any, close: (value: any) => void, children?: any }} props
 *   `submit`: does the work; the dialog closes with what it returns. `first`: Confirm has the focus
 */
export function FormDialog({ title, large = false, danger = false, ready = true, first = false, submit, close, children }) {
  const [wrong, setWrong] = useState("");
  const [busy, setBusy] = useState(false);
  return html`<form class=${large ? "dialog large" : "dialog"} onSubmit=${async (/** @type {Event} */ event) => {
    event.preventDefault();
    if (!ready || busy) return;
    setBusy(true);
    setWrong("");
    try {
      close(await submit());
    } catch (error) {
      setWrong(told(error));
      setBusy(false);
    }
  }}>
    <h2 id="dialog-title">${title}</h2>
    ${children}
    ${wrong && html`<p role="alert"><span class="st bad">Refused</span> ${wrong}</p>`}
    <div class="acts">
      <button type="button" onClick=${() => close(null)}>Cancel</button>
      <button type="submit" class="primary ${danger ? "danger" : ""}" disabled=${!ready || busy} autofocus=${first}>Confirm</button>
    </div>
  </form>`;
}

/**
 * Ask whether to go on.
 * @param {{ title: string, text?: any, danger?: boolean, type?: string, act?: () => Promise<unknown> }} what `type`: a name that must be typed; `act`: the work, done while the dialog is still there
 * @returns {Promise<boolean>}
 */
export async function confirm(what) {
  return (await ask((close) => html`<${Confirm} ...${what} close=${close} />`)) === true;
}

/** @param {{ title: string, text?: any, danger?: boolean, type?: string, act?: () => Promise<unknown>, close: (value: any) => void }} props */
function Confirm({ title, text, danger, type, act, close }) {
  const [typed, setTyped] = useState("");
  const submit = async () => {
    await act?.();
    return true;
  };
  return html`<${FormDialog} title=${title} danger=${danger} ready=${type === undefined || typed === type} first=${type === undefined} submit=${submit} close=${close}>
    ${text && html`<p>${text}</p>`}
    ${type !== undefined &&
    html`<label>Type ${type} <input value=${typed} autocomplete="off" autofocus
      onInput=${(/** @type {any} */ event) => setTyped(event.currentTarget.value)} /></label>`}
  <//>`;
}

/** The place where dialogs are shown. */
export function Dialogs() {
  const shown = open.value;
  const element = useRef(/** @type {HTMLDialogElement | null} */ (null));
  useEffect(() => {
    const dialog = element.current;
    if (!dialog || !shown) return;
    if (!dialog.open) dialog.showModal();
    /** @type {HTMLElement | null} */ (dialog.querySelector("[autofocus]:not([disabled])"))?.focus();
  }, [shown]);
  if (!shown) return null;
  return html`<dialog ref=${element} class="modal" aria-labelledby="dialog-title"
    onCancel=${(/** @type {Event} */ event) => {
      event.preventDefault();
      shown.close(null);
    }}
    onClick=${(/** @type {any} */ event) => event.target === event.currentTarget && shown.close(null)}>${shown.view}</dialog>`;
}
