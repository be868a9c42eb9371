/** Applies the theme that was chosen in this browser before anything is drawn, so that a dark page does not begin white. */
(() => {
  const chosen = localStorage.getItem("toril.theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
})();
