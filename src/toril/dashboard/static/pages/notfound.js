/** An address that is no page. */
import { html } from "../lib/html.js";
import { link } from "../lib/router.js";
import { Page } from "../parts/frame.js";

export function NotFoundPage() {
  return html`<${Page} title="No such page" trail=${["No such page"]}>
    <div class="head"><div><div class="title"><h1>No such page</h1></div></div></div>
    <div class="box blank"><p>Nothing stands at this address.</p><a class="btn" href=${link([])}>Overview</a></div>
  <//>`;
}
