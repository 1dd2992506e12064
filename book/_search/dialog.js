import { indexOf, search, snippet, wordsOf } from "./rank.js";

const MOST = { dialog: 8, page: 40, ofPage: 3 };
const KINDS = { term: "Glossary", claim: "Claim", name: "Reference" };

/** An element with attributes and children. */
function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** The best of what was found; of one page only so many, while others wait. */
function chosen(results, most) {
  const counts = new Map();
  const first = [], later = [];
  for (const result of results) {
    const count = (counts.get(result.entry.page) ?? 0) + 1;
    counts.set(result.entry.page, count);
    (count <= MOST.ofPage ? first : later).push(result);
  }
  return [...first, ...later].slice(0, most);
}

/** Brings a search field to life: results below it as one types. */
function attend(form, index) {
  const root = document.documentElement.dataset.content_root;
  const input = form.querySelector("input");
  const inDialog = form.closest("dialog") !== null;
  const status = element("p", { class: "bn-search-status", role: "status" });
  const list = element("ol", { class: "bn-search-results", "aria-label": "Results" });
  const place = element("div", { class: "bn-search-found" }, status, list);
  form.after(place);

  const line = ({ entry }, words) => {
    const marked = snippet(entry.text, words).map(([text, found]) =>
      found ? element("mark", {}, text) : text,
    );
    const kind = KINDS[entry.kind] ?? "";
    const where = [kind, entry.anchor ? entry.page.title : ""].filter(Boolean).join(" · ");
    const link = element(
      "a",
      { href: root + entry.url },
      element("span", { class: "bn-search-title" }, entry.title),
      ...(where ? [element("span", { class: "bn-search-where" }, where)] : []),
      ...(marked.length ? [element("span", { class: "bn-search-text" }, ...marked)] : []),
    );
    return element("li", {}, link);
  };

  const show = () => {
    const question = input.value.trim();
    place.hidden = !question;
    const { results, meant, words } = search(index, question);
    const some = chosen(results, inDialog ? MOST.dialog : MOST.page);
    list.replaceChildren(...some.map((result) => line(result, words)));
    status.textContent = told(question, results.length, some.length, meant);
    if (inDialog && results.length > some.length) {
      const all = `${root}search.html?q=${encodeURIComponent(question)}`;
      list.append(element("li", {}, element("a", { href: all, class: "bn-search-all" }, "All results")));
    }
  };

  input.addEventListener("input", show);
  // Arrow keys walk through the links, as Tab does.
  place.parentElement.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const stops = [input, ...list.querySelectorAll("a")];
    const at = stops.indexOf(document.activeElement);
    if (!step || at < 0 || !stops[at + step]) return;
    event.preventDefault();
    stops[at + step].focus();
  });
  // A link to a place on this very page leaves no dialog behind.
  list.addEventListener("click", () => form.closest("dialog")?.close());
  if (!inDialog) {
    input.value = new URLSearchParams(location.search).get("q") ?? input.value;
    input.focus();
    input.addEventListener("input", () => {
      history.replaceState(null, "", `?q=${encodeURIComponent(input.value)}`);
    });
  }
  show();
}

/** What was found, in a sentence. */
function told(question, all, some, meant) {
  if (!question) return "";
  if (!all) return `Nothing found for “${question}”.`;
  const mended = meant !== wordsOf(question).join(" ") ? ` for “${meant}”` : "";
  const number = all === 1 ? "1 result" : `${all} results`;
  return `${number}${mended}${some < all ? `, the best ${some} first` : ""}`;
}

const index = indexOf(window.bnSearchEntries);
for (const form of document.querySelectorAll("form.bd-search")) attend(form, index);
