/** On a phone: what the bar at the bottom has no room for. */
import { html } from "../lib/html.js";
import { link } from "../lib/router.js";
import { who } from "../lib/session.js";
import { Caller, FootButtons, Page, menu } from "../parts/frame.js";
import { Icon } from "../parts/icons.js";

export function MorePage() {
  return html`<${Page} title="More" trail=${["More"]}>
    <div class="head"><div><div class="title"><h1>More</h1></div></div></div>
    ${menu().map(([title, items]) => html`<section key=${title}>
      ${title && html`<header><h2>${title}</h2></header>`}
      <ul class="links">${items.map((item) => html`<li key=${item.text}><a href=${link(item.to)}><${Icon} name=${item.icon} />${item.text}</a></li>`)}</ul>
    </section>`)}
    <section><${Caller} caller=${who.value} /><div class="acts"><${FootButtons} /></div></section>
  <//>`;
}
