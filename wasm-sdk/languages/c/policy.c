/* The policy `by-suffix` in C: regular files with one of some suffixes stay behind.
 *
 * The same rule as ../js/policy.js and ../../template, and tried on the same cases. No libc: memory
 * is one block that grows; what a call took is given back after it, what `configure` took stays.
 */
#include "farshore_policy.h"

static const char DEFAULT_SUFFIXES[] = ".tmp, .part, ~";

extern uint8_t __heap_base;
static uintptr_t kept, used; /* the heap's ends: of what stays, and of the call under way */

static void *take(size_t size, size_t align) {
  if (kept == 0) kept = used = (uintptr_t)&__heap_base;
  uintptr_t start = (used + align - 1) & ~(align - 1);
  uintptr_t end = start + size;
  if (end < start) __builtin_trap();
  size_t have = __builtin_wasm_memory_size(0) << 16;
  if (end > have && __builtin_wasm_memory_grow(0, (end - have + 0xffff) >> 16) == (size_t)-1)
    __builtin_trap();
  used = end;
  return (void *)start;
}

static void copy(uint8_t *to, const uint8_t *from, size_t len) {
  for (size_t at = 0; at < len; at++) to[at] = from[at];
}

EXPORT("cabi_realloc")
void *cabi_realloc(uint8_t *old, size_t old_len, size_t align, size_t len) {
  if (len == 0) return (void *)align;
  uint8_t *fresh = take(len, align);
  copy(fresh, old, old_len < len ? old_len : len);
  return fresh;
}

EXPORT("cabi_post_" LIFECYCLE "configure") void post_configure(void *result) {
  (void)result; /* the suffixes point into what it took */
  kept = used;
}

EXPORT("cabi_post_" EXCLUSION "exclude") void post_exclude(void *result) {
  (void)result;
  used = kept;
}

static bytes_t text(const char *literal) {
  size_t len = 0;
  while (literal[len]) len++;
  return (bytes_t){(const uint8_t *)literal, len};
}

static int equal(bytes_t a, bytes_t b) {
  if (a.len != b.len) return 0;
  for (size_t at = 0; at < a.len; at++)
    if (a.start[at] != b.start[at]) return 0;
  return 1;
}

static bytes_t join(bytes_t a, bytes_t b, bytes_t c) {
  uint8_t *start = take(a.len + b.len + c.len, 1);
  copy(start, a.start, a.len);
  copy(start + a.len, b.start, b.len);
  copy(start + a.len + b.len, c.start, c.len);
  return (bytes_t){start, a.len + b.len + c.len};
}

static int is_space(uint8_t byte) { return byte == ' ' || (byte >= '\t' && byte <= '\r'); }

static bytes_t trim(bytes_t part) {
  while (part.len && is_space(part.start[0])) part.start++, part.len--;
  while (part.len && is_space(part.start[part.len - 1])) part.len--;
  return part;
}

static bytes_t *suffixes;
static size_t suffix_count;

static configured_t *refuse(bytes_t error) {
  configured_t *answer = take(sizeof *answer, _Alignof(configured_t));
  answer->is_error = 1;
  answer->error = error;
  return answer;
}

EXPORT(LIFECYCLE "configure")
configured_t *configure(const setting_t *settings, size_t len, int64_t seconds, uint32_t nanos) {
  (void)seconds, (void)nanos; /* this policy has no use for the time of the cut */
  bytes_t list = text(DEFAULT_SUFFIXES);
  for (size_t at = 0; at < len; at++) {
    if (!equal(settings[at].key, text("suffixes")))
      return refuse(join(text("unknown setting '"), settings[at].key,
                         text("'; the settings are: suffixes")));
    list = settings[at].value;
  }
  list = trim(list);
  size_t count = list.len ? 1 : 0;
  for (size_t at = 0; at < list.len; at++) count += list.start[at] == ',';

  suffixes = take(count * sizeof *suffixes, _Alignof(bytes_t));
  suffix_count = count;
  bytes_t *rules = take(count * sizeof *rules, _Alignof(bytes_t));
  const uint8_t *at = list.start, *end = list.start + list.len;
  for (size_t index = 0; index < count; index++) {
    const uint8_t *stop = at;
    while (stop < end && *stop != ',') stop++;
    bytes_t part = trim((bytes_t){at, stop - at});
    if (part.len == 0)
      return refuse(join(text("setting 'suffixes': '"), list, text("' has an empty part")));
    suffixes[index] = part;
    rules[index] = join(text("suffix "), part, text(""));
    at = stop + 1;
  }
  configured_t *answer = take(sizeof *answer, _Alignof(configured_t));
  answer->is_error = 0;
  answer->manifest = (manifest_t){text("by-suffix"), text("0.1.0"), {rules, count}};
  return answer;
}

static verdict_t decide(const entry_t *entry) {
  verdict_t verdict = {ACTION_REPLICATE, {0, 0}};
  if (entry->kind != KIND_FILE) return verdict;
  for (size_t index = 0; index < suffix_count; index++) {
    bytes_t suffix = suffixes[index], path = entry->path;
    if (path.len < suffix.len) continue;
    bytes_t end = {path.start + path.len - suffix.len, suffix.len};
    if (equal(end, suffix)) return (verdict_t){ACTION_EXCLUDE, {1, index}};
  }
  return verdict;
}

EXPORT(EXCLUSION "exclude")
verdicts_t *exclude(const entry_t *entries, size_t len) {
  verdict_t *verdicts = take(len * sizeof *verdicts, _Alignof(verdict_t));
  for (size_t at = 0; at < len; at++) verdicts[at] = decide(&entries[at]);
  verdicts_t *answer = take(sizeof *answer, _Alignof(verdicts_t));
  *answer = (verdicts_t){verdicts, len};
  return answer;
}
