// Starts the page that the body names, and the parts that all pages have.

import { can, principal } from "./lib/principal.js";
import { notifyError } from "./lib/ui.js";
import { installShortcuts } from "./lib/shortcuts.js";

const page = document.body.dataset.page;

installShortcuts();
showPrincipal().catch(notifyError);
import(`./pages/${page}.js`)
  .then((module) => module.start(document.getElementById("content"), pageParameters()))
  .catch(notifyError);

/** Shows who is logged in, and hides the links to pages that the gateway would refuse. */
async function showPrincipal() {
  const { name, tenant, open } = await principal();
  document.getElementById("principal").textContent = open ? "" : `${name} · ${tenant}`;
  document.getElementById("logout").hidden = Boolean(open);
  for (const link of document.querySelectorAll("nav [data-needs]")) {
    link.hidden = !(await can(link.dataset.needs));
  }
}

/** Returns the parameters in the path of the page, such as the id of a job. */
function pageParameters() {
  return { id: document.body.dataset.id || "" };
}
