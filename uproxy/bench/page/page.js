// Lets a path be hidden everywhere. The page is complete without it.
document.documentElement.classList.add("scripted");
for (const box of document.querySelectorAll(".legend input")) {
  box.checked = true;
  box.addEventListener("change", () => {
    for (const series of document.querySelectorAll(".series")) {
      if (series.dataset.path === box.value) series.classList.toggle("hidden", !box.checked);
    }
  });
}
