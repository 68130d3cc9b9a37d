// The policy `by-suffix` in JavaScript: regular files with one of some suffixes stay behind.
//
// The same rule as ../c/policy.c and ../../template, and tried on the same cases. Names are bytes
// (Uint8Array), so one that is not UTF-8 is no special case. No clock, no random numbers, no state
// between calls but what `configure` made.

const DEFAULT = ".tmp, .part, ~";

let suffixes = [];

function utf8(text) {
  const escaped = unescape(encodeURIComponent(text));
  return Uint8Array.from(escaped, (char) => char.charCodeAt(0));
}

function endsWith(path, suffix) {
  const start = path.length - suffix.length;
  if (start < 0) return false;
  for (let at = 0; at < suffix.length; at++) {
    if (path[start + at] !== suffix[at]) return false;
  }
  return true;
}

export const lifecycle = {
  configure(settings, _at) {
    let list = DEFAULT;
    for (const { key, value } of settings) {
      // What is thrown is the `err` of the result: a text for the operator.
      if (key !== "suffixes") throw `unknown setting '${key}'; the settings are: suffixes`;
      list = value;
    }
    const texts = list.trim() === "" ? [] : list.split(",").map((part) => part.trim());
    if (texts.includes("")) throw `setting 'suffixes': '${list.trim()}' has an empty part`;
    suffixes = texts.map(utf8);
    return { name: "by-suffix", version: "0.1.0", rules: texts.map((text) => `suffix ${text}`) };
  },
};

export const exclusion = {
  exclude(entries) {
    return entries.map(({ kind, path }) => {
      const rule = kind === "file" ? suffixes.findIndex((suffix) => endsWith(path, suffix)) : -1;
      return rule < 0 ? { action: "replicate", rule: undefined } : { action: "exclude", rule };
    });
  },
};
