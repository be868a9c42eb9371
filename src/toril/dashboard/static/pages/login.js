/** Asks for a token; over the page where there is one, so that nothing typed is lost. */
import { useEffect, useRef, useState } from "preact/hooks";
import { html } from "../lib/html.js";
import { logIn, refused, token } from "../lib/session.js";
import { Brand } from "../parts/icons.js";

/** @param {{ over: boolean }} props */
export function Login({ over }) {
  const [typed, setTyped] = useState("");
  const element = useRef(/** @type {HTMLDialogElement | null} */ (null));
  useEffect(() => {
    document.title = "Log in · toril";
    const dialog = element.current;
    if (dialog && !dialog.open) dialog.showModal();
    dialog?.querySelector("input")?.focus();
  }, []);
  return html`<dialog class="modal ${over ? "" : "login"}" ref=${element} aria-labelledby="login-title" onCancel=${(/** @type {Event} */ event) => event.preventDefault()}>
    <form class="dialog" onSubmit=${(/** @type {Event} */ event) => {
      event.preventDefault();
      if (typed.trim()) logIn(typed.trim());
    }}>
      <h1 id="login-title" class="brand"><${Brand} />toril</h1>
      <p>The token stays in this tab and is gone when you close it.</p>
      <label>Token <input type="password" autocomplete="off" value=${typed} onInput=${(/** @type {any} */ event) => setTyped(event.currentTarget.value)} /></label>
      ${refused.value && html`<p role="alert"><span class="st bad">Refused</span> ${token.value ? refused.value : ""}</p>`}
      <div class="acts"><button class="primary" type="submit">Log in</button></div>
    </form>
  </dialog>`;
}
