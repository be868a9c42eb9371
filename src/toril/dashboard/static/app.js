/** The dashboard: which page stands at which address, and the login over it where a token is missing. */
import { render } from "preact";
import { useEffect, useState } from "preact/hooks";
import { ApiError, INSPECTOR, get } from "./lib/api.js";
import { html } from "./lib/html.js";
import { listen } from "./lib/keyboard.js";
import { go, link, place } from "./lib/router.js";
import { refused, token, unanswered, who } from "./lib/session.js";
import { Dialogs } from "./parts/dialog.js";
import { openPalette, showKeys } from "./parts/palette.js";
import { Toasts } from "./parts/toasts.js";
import { AuditPage } from "./pages/audit.js";
import { DeadLettersPage } from "./pages/deadletters.js";
import { DeliveryPage } from "./pages/delivery.js";
import { EventsPage } from "./pages/events.js";
import { FlowPage } from "./pages/flow.js";
import { GroupsPage } from "./pages/groups.js";
import { JobPage } from "./pages/job.js";
import { InspectedPage } from "./pages/inspected.js";
import { InspectorPage } from "./pages/inspector.js";
import { Login } from "./pages/login.js";
import { MorePage } from "./pages/more.js";
import { NotFoundPage } from "./pages/notfound.js";
import { OverviewPage } from "./pages/overview.js";
import { ProxyPage } from "./pages/proxy.js";
import { ProxiedRequestPage } from "./pages/proxiedrequest.js";
import { QueuePage } from "./pages/queue.js";
import { QueuesPage } from "./pages/queues.js";
import { SchedulersPage } from "./pages/schedulers.js";
import { TargetPage } from "./pages/target.js";
import { TargetsPage } from "./pages/targets.js";
import { WorkersPage } from "./pages/workers.js";

/** @param {string[]} segments */
function pageAt(segments) {
  const [first, name, second, id] = segments;
  switch (`${first || ""}/${segments.length}`) {
    case "/0": return html`<${OverviewPage} />`;
    case "queues/1": return html`<${QueuesPage} />`;
    case "queues/2": return html`<${QueuePage} key=${name} name=${name} />`;
    case "queues/3": return second === "groups" ? html`<${GroupsPage} key=${name} queue=${name} />` : html`<${NotFoundPage} />`;
    case "queues/4": return second === "jobs" ? html`<${JobPage} key=${`${name}/${id}`} queue=${name} id=${id} />` : html`<${NotFoundPage} />`;
    case "flows/3": return html`<${FlowPage} queue=${name} id=${second} />`;
    case "schedulers/1": return html`<${SchedulersPage} />`;
    case "workers/1": return html`<${WorkersPage} />`;
    case "proxy/1": return html`<${ProxyPage} />`;
    case "proxy/2": return html`<${ProxiedRequestPage} key=${name} id=${name} />`;
    case "targets/1": return html`<${TargetsPage} />`;
    case "targets/2": return html`<${TargetPage} key=${name} name=${name} />`;
    case "deliveries/2": return html`<${DeliveryPage} key=${name} id=${name} />`;
    case "dead-letters/1": return html`<${DeadLettersPage} />`;
    case "events/1": return html`<${EventsPage} />`;
    case "audit/1": return html`<${AuditPage} />`;
    case "inspector/1": return INSPECTOR ? html`<${InspectorPage} />` : html`<${NotFoundPage} />`;
    case "inspector/2": return INSPECTOR ? html`<${InspectedPage} key=${name} number=${Number(name) || 0} />` : html`<${NotFoundPage} />`;
    case "more/1": return html`<${MorePage} />`;
    default: return html`<${NotFoundPage} />`;
  }
}

/** What is shown until toril has said who the token is. */
function Waiting() {
  return unanswered.value
    ? html`<main class="alone"><p role="status"><span class="st warn">toril does not answer</span> Trying again every two seconds.</p></main>`
    : html`<main class="alone"><p class="muted" aria-busy="true">Loading</p></main>`;
}

function App() {
  const [, redraw] = useState(0);
  useEffect(() => {
    const stops = [place, token, who, refused, unanswered].map((signal) => signal.subscribe(() => redraw((n) => n + 1)));
    return () => stops.forEach((stop) => stop());
  }, []);
  useEffect(() => {
    if (!token.value) return;
    let again = 0;
    const ask = async () => {
      try {
        who.value = await get("whoami");
        unanswered.value = false;
      } catch (error) {
        if (error instanceof ApiError && error.status === 401) return;
        unanswered.value = true;
        again = setTimeout(ask, 2000);
      }
    };
    ask();
    return () => clearTimeout(again);
  }, [token.value, refused.value]);

  const asks = !token.value || refused.value;
  return html`${who.value ? pageAt(place.value.segments) : !asks && html`<${Waiting} />`}
    ${asks && html`<${Login} over=${who.value !== null} />`}
    <${Dialogs} /><${Toasts} />`;
}

listen({ palette: () => who.value && openPalette(), help: showKeys, go: (segments) => who.value && go(link(segments)) });
render(html`<${App} />`, document.body);
