/* farshore:policy@1.0.0, world `exclude-policy`, as a C compiler for wasm32 sees it.
 *
 * The canonical ABI lays a record out as C does a struct. Lists are a pointer and a length. The host
 * writes a call's arguments to memory that it takes with cabi_realloc, and calls the function whose
 * name begins with cabi_post_ when it has read the result.
 */
#ifndef FARSHORE_POLICY_H
#define FARSHORE_POLICY_H

#include <stddef.h>
#include <stdint.h>

#define EXPORT(name) __attribute__((export_name(name)))
#define LIFECYCLE "farshore:policy/lifecycle@1.0.0#"
#define EXCLUSION "farshore:policy/exclusion@1.0.0#"

typedef struct { const uint8_t *start; size_t len; } bytes_t; /* a path, or UTF-8 text */

typedef struct { bytes_t key, value; } setting_t;
typedef struct { const setting_t *start; size_t len; } settings_t;

typedef struct { const bytes_t *start; size_t len; } rules_t;
typedef struct { bytes_t name, version; rules_t rules; } manifest_t;
typedef struct {
  uint8_t is_error;
  union { manifest_t manifest; bytes_t error; };
} configured_t;

enum { KIND_FILE, KIND_DIRECTORY, KIND_SYMLINK, KIND_FIFO, KIND_SOCKET, KIND_CHAR_DEVICE,
       KIND_BLOCK_DEVICE };
typedef struct {
  bytes_t path;
  uint8_t kind;
  uint64_t size;
  struct { int64_t seconds; uint32_t nanoseconds; } mtime;
  uint32_t mode, uid, gid;
} entry_t;

enum { ACTION_REPLICATE, ACTION_EXCLUDE, ACTION_DEFER };
typedef struct {
  uint8_t action;
  struct { uint8_t is_some; uint32_t index; } rule;
} verdict_t;
typedef struct { const verdict_t *start; size_t len; } verdicts_t;

_Static_assert(sizeof(entry_t) == 56 && sizeof(verdict_t) == 12, "the layout of the ABI");
_Static_assert(sizeof(configured_t) == 28 && sizeof(setting_t) == 16, "the layout of the ABI");

#endif
