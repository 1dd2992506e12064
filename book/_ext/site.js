// What the theme's pages ask of Bootstrap, a clipboard library and a copy button, in a few lines.
"use strict";
{
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];

  /** Menus of the header: click or keys open them, Escape and a click elsewhere close them. */
  const menus = () => {
    const buttons = all('[data-bs-toggle="dropdown"]');
    const menuOf = (button) => button.parentElement.querySelector(".dropdown-menu");
    const show = (button, open) => {
      menuOf(button).classList.toggle("show", open);
      button.setAttribute("aria-expanded", open);
    };
    const closeAll = (but) => buttons.forEach((one) => one !== but && show(one, false));
    for (const button of buttons) {
      const menu = menuOf(button);
      menu.classList.add("dropdown-menu-end");
      menu.dataset.bsPopper = "static";
      button.addEventListener("click", () => {
        closeAll(button);
        show(button, !menu.classList.contains("show"));
      });
      button.parentElement.addEventListener("keydown", (event) => {
        const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
        if (event.key === "Escape" && menu.classList.contains("show")) {
          show(button, false);
          button.focus();
        } else if (step) {
          event.preventDefault();
          show(button, true);
          const items = all("a, button", menu);
          const at = items.indexOf(document.activeElement);
          items[(Math.max(at, at < 0 && step < 0 ? 0 : at) + step + items.length) % items.length].focus();
        }
      });
    }
    document.addEventListener("click", (event) => {
      if (!event.target.closest(".dropdown")) closeAll();
    });
  };

  /** The list of a page's sections marks the one that is read. */
  const sections = () => {
    const links = new Map();
    for (const link of all('#pst-page-toc-nav a[href^="#"]')) {
      const section = document.getElementById(decodeURIComponent(link.hash.slice(1)));
      if (section) links.set(section, link);
    }
    const seen = new Set();
    const watch = new IntersectionObserver(
      (entries) => {
        for (const { target, isIntersecting } of entries) {
          seen[isIntersecting ? "add" : "delete"](target);
        }
        // The last of them: a part of a section comes after the section itself.
        const read = [...links.keys()].filter((section) => seen.has(section)).pop();
        if (!read) return;
        for (const [section, link] of links) {
          link.classList.toggle("active", section.contains(read));
        }
      },
      { rootMargin: "0px 0px -80% 0px" },
    );
    for (const section of links.keys()) watch.observe(section);
  };

  /** A button leads to the top while one scrolls up. */
  const backToTop = () => {
    const button = document.getElementById("pst-back-to-top");
    if (!button) return;
    let before = scrollY;
    button.addEventListener("click", () => scrollTo(0, 0));
    addEventListener(
      "scroll",
      () => {
        button.style.display = scrollY < before && scrollY > innerHeight / 2 ? "block" : "none";
        before = scrollY;
      },
      { passive: true },
    );
  };

  /** Put the text of an element on the clipboard; also where a page isn't served securely. */
  const copy = async (element, text) => {
    if (navigator.clipboard) return navigator.clipboard.writeText(text);
    const selection = getSelection();
    selection.selectAllChildren(element);
    document.execCommand("copy");
    selection.removeAllRanges();
  };

  /** Code has a button that copies it. */
  const copyButtons = () => {
    const icon = (shape) =>
      `<svg aria-hidden="true" viewBox="0 0 24 24" fill="none" stroke-width="2">${shape}</svg>`;
    const pages = icon('<path d="M9 9h11v11H9zM5 15H4V4h11v1"/>');
    const done = icon('<path d="M5 12l5 5L20 7"/>');
    for (const code of all("div.highlight pre")) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "copybtn";
      button.title = "Copy";
      button.setAttribute("aria-label", "Copy");
      button.innerHTML = pages;
      button.addEventListener("click", async () => {
        await copy(code, code.textContent.replace(/\n$/, ""));
        button.classList.add("success");
        button.innerHTML = done;
        setTimeout(() => {
          button.classList.remove("success");
          button.innerHTML = pages;
        }, 1500);
      });
      code.after(button);
    }
  };

  /** Words for what has only an icon, as the browser itself shows them. */
  const titles = () => {
    for (const element of all("[data-bs-title]")) element.title ||= element.dataset.bsTitle;
  };

  for (const part of [menus, sections, backToTop, copyButtons, titles]) part();
}
