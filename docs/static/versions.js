// A menu of the versions beside this one, where the site has more; opened as files it has none.
"use strict";

async function addVersions() {
  const root = new URL(document.documentElement.dataset.content_root ?? "./", location.href);
  const site = new URL("../", root);
  const answer = await fetch(new URL("versions.json", root)).catch(() => null);
  const versions = answer?.ok ? await answer.json() : [];
  const here = root.pathname.split("/").at(-2);
  const search = document.querySelector(".sidebar-search-container");
  if (!search || !versions.includes(here)) return;

  const label = document.createElement("label");
  label.className = "versions";
  const menu = document.createElement("select");
  for (const version of versions) menu.add(new Option(version, version, false, version === here));
  label.append("Version ", menu);
  search.before(label);

  const path = location.pathname.slice(root.pathname.length);
  const place = (version) => new URL(`${version}/`, site);
  menu.addEventListener("change", async () => {
    const page = new URL(path, place(menu.value));
    // Not every version has this page.
    const there = await fetch(page, { method: "HEAD" }).then((it) => it.ok, () => false);
    location.href = there ? page.href + location.hash : place(menu.value).href;
  });

  const newest = versions.find((version) => /^[\d.]+$/.test(version));
  if (!newest || newest === here) return;
  const note = document.createElement("p");
  note.className = "admonition versions-note";
  const link = document.createElement("a");
  link.href = place(newest).href;
  link.textContent = `segzoo ${newest}`;
  const what = here === "dev" ? "what is not released yet" : `segzoo ${here}`;
  note.append(`This page describes ${what}; the newest release is `, link, ".");
  document.querySelector("article")?.prepend(note);
}

document.addEventListener("DOMContentLoaded", addVersions);
