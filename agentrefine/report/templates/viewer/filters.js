// The filters: which episodes are shown, and how many each choice would show.

const FILTERS = ["benchmark", "task", "difficulty", "outcome", "errors", "agreement"];

/** What an episode is found by under one filter. */
function labels(filter, episode, other) {
  switch (filter) {
    case "outcome":
      return episode.solved ? episode.outcomes : ["unsolved", ...episode.outcomes];
    case "errors":
      return episode.errors;
    case "agreement":
      return [agreement(episode, other)];
    default:
      return [episode[filter]];
  }
}

/**
 * The episodes that pass, and for each filter how many episodes each of its labels would leave if only that one filter
 * were changed.
 */
function filtered(episodes, other, state) {
  const query = state.search.toLowerCase();
  const active = FILTERS.filter((filter) => state[filter] !== null);
  const counts = Object.fromEntries(FILTERS.map((filter) => [filter, new Map()]));
  const shown = [];
  for (const episode of episodes) {
    if (query && !searchable(episode).includes(query)) continue;
    const failed = active.filter((filter) => !labels(filter, episode, other).includes(state[filter]));
    if (failed.length > 1) continue;
    if (!failed.length) shown.push(episode);
    for (const filter of failed.length ? failed : FILTERS)
      for (const label of labels(filter, episode, other))
        if (label !== null) counts[filter].set(label, (counts[filter].get(label) ?? 0) + 1);
  }
  return { shown, counts };
}

/** Whether a filter has anything to choose from. */
function hasChoice(filter, episodes, other) {
  if (filter === "agreement") return Boolean(other);
  return new Set(episodes.flatMap((episode) => labels(filter, episode, other))).size > 1;
}

/** Fill a filter's menu; what is chosen stays in it even where it leaves nothing. */
function showFilter(filter, counts, chosen, labelText) {
  const select = document.getElementById(filter);
  const order = { outcome: ["solved", "unsolved"], errors: ["none"], agreement: Object.keys(AGREEMENT) }[filter] ?? [];
  const rank = (label) => (order.includes(label) ? order.indexOf(label) : order.length);
  const offered = [...new Set([...counts.keys(), ...(chosen === null ? [] : [chosen])])].sort(
    (a, b) => rank(a) - rank(b) || a.localeCompare(b),
  );
  const options = offered.map((label) => {
    const option = new Option(`${labelText(label)} (${counts.get(label) ?? 0})`, `=${label}`);
    option.selected = label === chosen;
    return option;
  });
  select.replaceChildren(new Option("any", "", chosen === null, chosen === null), ...options);
  select.classList.toggle("active", chosen !== null);
}
