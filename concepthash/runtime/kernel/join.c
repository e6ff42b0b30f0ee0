/* The self-join: codes are brought together by a hash of their bits under a mask, and compared with
 * all others of their bucket. Which masks make the join complete is the caller's business. */
#include "join.h"
#include "x86.h"

enum { TILE = 4096, DIGIT = 11, DIGITS = 1 << DIGIT };

static const uint64_t LOOK_EVERY = (uint64_t)1 << 28; /* comparisons, a fraction of a second */

typedef struct {
    uint32_t a, b, distance;
} Pair;

typedef struct {
    const uint64_t *codes, *masks;
    size_t count, words, which;
    uint32_t radius;
    uint32_t *parents; /* or NULL: collect pairs */
    Pair *pairs;
    size_t found, room, limit;
    const volatile unsigned char *stop;
    uint64_t work; /* comparisons since `stop` was looked at */
    size_t (*near)(const uint64_t *, const uint64_t *, size_t, size_t, uint32_t, uint16_t *,
                   uint16_t *);
} Join;

enum { DONE, NO_MEMORY, TOO_MANY, STOPPED };

/* Which of `count` codes are within `radius` of `query`: their numbers and distances. */
#define NEAR_BODY                                                                            \
    size_t found = 0;                                                                        \
    for (size_t j = 0; j < count; j++) {                                                     \
        uint32_t d = POPCOUNT(query[0] ^ codes[j * words]);                                  \
        for (size_t w = 1; w < words; w++) d += POPCOUNT(query[w] ^ codes[j * words + w]);   \
        hits[found] = (uint16_t)j;                                                           \
        distances[found] = (uint16_t)d;                                                      \
        found += d <= radius;                                                                \
    }                                                                                        \
    return found;

#define NEAR_ARGUMENTS                                                                       \
    const uint64_t *query, const uint64_t *codes, size_t count, size_t words, uint32_t radius, \
        uint16_t *hits, uint16_t *distances

static size_t near_portable(NEAR_ARGUMENTS) { NEAR_BODY }
POPCNT static size_t near_popcnt(NEAR_ARGUMENTS) { NEAR_BODY }
POPCNT static size_t near_popcnt_1(NEAR_ARGUMENTS) {
    words = 1;
    NEAR_BODY
}

static uint32_t hash(const uint64_t *code, const uint64_t *mask, size_t words) {
    uint64_t h = 0;
    for (size_t w = 0; w < words; w++) {
        h = (h ^ (code[w] & mask[w])) * 0x9e3779b97f4a7c15u;
        h ^= h >> 32;
    }
    return (uint32_t)((h * 0xd6e8feb86659fd93u) >> 32);
}

/* Sort hash << 32 | row by hash, rows of one hash staying in order; the result is in `keys`. */
static void sort_by_hash(uint64_t *keys, uint64_t *spare, size_t count) {
    uint64_t *from = keys, *to = spare;
    for (int shift = 32; shift < 64; shift += DIGIT) {
        size_t start[DIGITS] = {0};
        for (size_t i = 0; i < count; i++) start[(from[i] >> shift) % DIGITS]++;
        for (size_t d = 0, before = 0; d < DIGITS; d++) {
            size_t here = start[d];
            start[d] = before;
            before += here;
        }
        for (size_t i = 0; i < count; i++) to[start[(from[i] >> shift) % DIGITS]++] = from[i];
        uint64_t *swap = from;
        from = to;
        to = swap;
    }
    if (from != keys) memcpy(keys, from, count * sizeof *keys);
}

static uint32_t root(uint32_t *parents, uint32_t row) {
    while (parents[row] != row) row = parents[row] = parents[parents[row]];
    return row;
}

static void link_rows(uint32_t *parents, uint32_t a, uint32_t b) {
    if (parents[a] == parents[b]) return;
    a = root(parents, a);
    b = root(parents, b);
    if (a < b) parents[b] = a;
    else parents[a] = b;
}

static int agree(const Join *j, uint32_t a, uint32_t b, size_t mask) {
    const uint64_t *x = j->codes + a * j->words, *y = j->codes + b * j->words;
    const uint64_t *m = j->masks + mask * j->words;
    for (size_t w = 0; w < j->words; w++)
        if ((x[w] ^ y[w]) & m[w]) return 0;
    return 1;
}

static int keep(Join *j, uint32_t a, uint32_t b, uint32_t distance) {
    if (!agree(j, a, b, j->which)) return DONE; /* their hashes only are equal */
    for (size_t mask = 0; mask < j->which; mask++)
        if (agree(j, a, b, mask)) return DONE;
    if (j->found == j->limit) return TOO_MANY;
    if (j->found == j->room) {
        size_t room = j->room ? 2 * j->room : 1024;
        Pair *more = realloc(j->pairs, room * sizeof *more);
        if (!more) return NO_MEMORY;
        j->pairs = more;
        j->room = room;
    }
    j->pairs[j->found++] = a < b ? (Pair){a, b, distance} : (Pair){b, a, distance};
    return DONE;
}

/* Compare all codes of a bucket, a tile that stays in the nearest cache at a time. */
static int bucket(Join *j, const uint64_t *keys, const uint64_t *codes, size_t count) {
    uint16_t hits[TILE + 1], distances[TILE + 1];
    for (size_t low = 0; low < count; low += TILE) {
        size_t high = low + TILE < count ? low + TILE : count;
        for (size_t i = 0; i < high; i++) {
            size_t first = i < low ? low : i + 1;
            size_t found = j->near(codes + i * j->words, codes + first * j->words, high - first,
                                   j->words, j->radius, hits, distances);
            uint32_t a = (uint32_t)keys[i];
            for (size_t h = 0; h < found; h++) {
                uint32_t b = (uint32_t)keys[first + hits[h]];
                if (j->parents) {
                    link_rows(j->parents, a, b);
                    continue;
                }
                int end = keep(j, a, b, distances[h]);
                if (end != DONE) return end;
            }
            j->work += high - first;
            if (j->work > LOOK_EVERY) {
                if (*j->stop) return STOPPED;
                j->work = 0;
            }
        }
    }
    return DONE;
}

static int join(Join *j) {
    size_t n = j->count, words = j->words;
    uint64_t *keys = malloc((n + 1) * sizeof *keys);
    /* First the other half of the sort, then the codes of one bucket. */
    uint64_t *codes = malloc((n + 1) * words * sizeof *codes);
    int end = keys && codes ? DONE : NO_MEMORY;
    if (end == DONE) {
        const uint64_t *mask = j->masks + j->which * words;
        for (size_t i = 0; i < n; i++)
            keys[i] = (uint64_t)hash(j->codes + i * words, mask, words) << 32 | i;
        sort_by_hash(keys, codes, n);
    }
    for (size_t first = 0, next; end == DONE && first < n; first = next) {
        for (next = first + 1; next < n && keys[next] >> 32 == keys[first] >> 32;) next++;
        if (next - first < 2) continue;
        for (size_t i = first; i < next; i++)
            memcpy(codes + (i - first) * words, j->codes + (uint32_t)keys[i] * words,
                   words * sizeof *codes);
        end = bucket(j, keys + first, codes, next - first);
    }
    free(keys);
    free(codes);
    return end;
}

/* Whether the sizes and numbers belong together; `words` is told by nothing but the masks. */
static int fits(const Join *j, const Py_buffer *codes, const Py_buffer *masks, Py_ssize_t words,
                const Py_buffer *parents, const Py_buffer *stop) {
    if (stop->len < 1 || words < 1 || codes->len % (8 * words) || masks->len % (8 * words)) return 0;
    if (j->count >= UINT32_MAX || j->which >= (size_t)(masks->len / (8 * words))) return 0;
    return !parents || parents->len == (Py_ssize_t)(j->count * sizeof(uint32_t));
}

static PyObject *answer(Join *j, int end) {
    if (end == STOPPED) {
        PyErr_SetString(PyExc_InterruptedError, "stopped");
        return NULL;
    }
    if (end == NO_MEMORY) return PyErr_NoMemory();
    if (end == TOO_MANY) {
        PyErr_SetString(PyExc_OverflowError, "more pairs than the limit");
        return NULL;
    }
    if (j->parents) {
        Py_INCREF(Py_None);
        return Py_None;
    }
    return PyBytes_FromStringAndSize((const char *)j->pairs, (Py_ssize_t)(j->found * sizeof(Pair)));
}

PyObject *kernel_join(PyObject *self, PyObject *args) {
    Py_buffer codes, masks, stop, parents = {0};
    Py_ssize_t words, which, limit;
    unsigned int radius;
    PyObject *forest, *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*y*nnIOny*:join", &codes, &masks, &words, &which, &radius,
                          &forest, &limit, &stop))
        return NULL;
    int linking = forest != Py_None;
    if (linking && PyObject_GetBuffer(forest, &parents, PyBUF_WRITABLE)) goto release;
    Join j = {.codes = codes.buf, .masks = masks.buf, .words = (size_t)words,
              .which = (size_t)which, .radius = radius, .limit = (size_t)limit,
              .stop = stop.buf};
    j.count = words > 0 ? (size_t)(codes.len / (8 * words)) : 0;
    j.parents = linking ? parents.buf : NULL;
    j.near = !HAS_POPCNT() ? near_portable : words == 1 ? near_popcnt_1 : near_popcnt;
    if (!fits(&j, &codes, &masks, words, linking ? &parents : NULL, &stop)) {
        PyErr_SetString(PyExc_ValueError, "codes, masks and parents do not belong together");
    } else {
        int end;
        Py_BEGIN_ALLOW_THREADS
        end = join(&j);
        Py_END_ALLOW_THREADS
        result = answer(&j, end);
        free(j.pairs);
    }
    if (linking) PyBuffer_Release(&parents);
release:
    PyBuffer_Release(&codes);
    PyBuffer_Release(&masks);
    PyBuffer_Release(&stop);
    return result;
}
