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
    document.addEventListener("focusin", (event) => {
      if (!event.target.closest(".dropdown")) closeAll();
    });
  };

  /** What a button says for those who don't see its icon, and for those who point at it. */
  const name = (button, words) => {
    button.setAttribute("aria-label", words);
    button.title = words;
  };

  /** The theme's buttons keep the focus when they are pressed: whoever uses keys goes on there. */
  const focus = () => {
    const buttons = [".theme-switch-button", ".search-button", ".primary-toggle", ".secondary-toggle"];
    for (const button of all(buttons.join())) button.blur = () => {};
  };

  /** The switch of colors says which are on. */
  const colorMode = () => {
    const root = document.documentElement;
    const modes = { light: "light", dark: "dark", auto: "as the system" };
    const say = () => {
      for (const button of all(".theme-switch-button")) {
        delete button.dataset.bsTitle;
        name(button, `Color mode: ${modes[root.dataset.mode] ?? modes.auto}`);
      }
    };
    new MutationObserver(say).observe(root, { attributeFilter: ["data-mode"] });
    say();
  };

  /** The book's and the page's contents: their buttons say what they open, and whether it is open. */
  const contents = () => {
    for (const [side, words] of [["primary", "Contents"], ["secondary", "On this page"]]) {
      const button = document.querySelector(`.${side}-toggle`);
      const sidebar = document.getElementById(`pst-${side}-sidebar`);
      const dialog = document.getElementById(`pst-${side}-sidebar-modal`);
      if (!button || !sidebar || !dialog) continue;
      name(button, words);
      name(dialog, words);
      const isOpen = () =>
        dialog.open || (getComputedStyle(sidebar).visibility === "visible" && sidebar.offsetWidth > 0);
      const say = () => button.setAttribute("aria-expanded", isOpen());
      // A sidebar beside the text slides, and is hidden at the end of it.
      const changes = new MutationObserver(say);
      for (const place of [sidebar, dialog]) changes.observe(place, { attributes: true });
      sidebar.addEventListener("transitionend", say);
      addEventListener("resize", say);
      say();
      dialog.addEventListener("click", (event) => {
        const link = event.target.closest('a[href^="#"]');
        const section = link && document.getElementById(decodeURIComponent(link.hash.slice(1)));
        if (!section) return;
        dialog.close();
        // Once the page is there: its first heading is read out, and Tab goes on below it.
        const heading = section.querySelector("h1, h2, h3, h4") ?? section;
        setTimeout(() => {
          heading.tabIndex = -1;
          heading.focus();
        });
      });
    }
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

  /** What scrolls inside can be reached with keys: also once it is unfolded, or its text grows. */
  const scrolling = () => {
    const watch = new ResizeObserver((entries) => {
      for (const { target } of entries) {
        target.tabIndex = target.scrollWidth > target.clientWidth ? 0 : -1;
      }
    });
    for (const place of all("article :is(pre, .cell_output > .output, .pst-scrollable-table-container)")) {
      watch.observe(place);
    }
  };

  /** Words for what has only an icon, as the browser itself shows them. */
  const titles = () => {
    for (const element of all("[data-bs-title]")) element.title ||= element.dataset.bsTitle;
  };

  for (const part of [menus, focus, colorMode, contents, sections, copyButtons, scrolling, titles]) {
    part();
  }
}
