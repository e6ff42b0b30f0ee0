/* Multi-index hashing: what building (tables.c), searching (lookup.c) and the loops
 * over a bucket (sift.c) share.
 *
 * A code is cut into sub-codes of at most 16 bits. Each has a table: the rows of a run of codes
 * ordered by that sub-code, so that those with one sub-code are a bucket. A table searched to
 * radius s has shown every code whose sub-code is at most s bits away; what no table has shown is
 * farther than s in each, which bounds its distance from below. */
#ifndef CHASH_TABLES_H
#define CHASH_TABLES_H

#include "scan.h"

enum {
    MAX_TABLES = 64,
    WIDEST = 16, /* bits of a sub-code */
    NEXT = 3,    /* sub-codes copied beside the rows of a table: those of the tables after it */
    LANES = 16,  /* entries compared at once: arrays are padded to it */
    BATCH = 128, /* buckets handed over at once */
    FETCHED = 4, /* buckets fetched ahead of their comparison */
    FINEST = 8,  /* bits of the next sub-code that order a bucket */
    GROUPS = 16, /* groups of candidates fetched ahead of their comparison */
    LIST = 256,  /* rows fetched ahead of it */
    PREVIEW = 64, /* codes looked at before a search begins */
    SAMPLE = 4,  /* queries of a batch that say whether it is one for tables at all */
};

/* A stretch of bits that is contiguous in a word and in a sub-code. */
typedef struct {
    int word, shift, out;
    uint32_t mask;
} Piece;

typedef struct {
    int count, words;
    int width[MAX_TABLES], pieces[MAX_TABLES];
    Piece piece[MAX_TABLES][WIDEST];
    uint64_t masks[MAX_TABLES][MAX_WORDS];
} Cut;

static inline uint32_t sub_code(const Cut *cut, int table, const uint64_t *code) {
    uint32_t value = 0;
    for (int i = 0; i < cut->pieces[table]; i++) {
        const Piece *p = &cut->piece[table][i];
        value |= ((uint32_t)(code[p->word] >> p->shift) & p->mask) << p->out;
    }
    return value;
}

/* The j-th table after `table`; -1 where there are not so many others. */
static inline int next_table(const Cut *cut, int table, int j) {
    return j < cut->count - 1 ? (table + 1 + j) % cut->count : -1;
}

/* Of sub-code v, offsets[v] .. offsets[v + 1] are its bucket in the other arrays. With ids alone, a
 * bucket is ordered by the first `fine_bits` of the next sub-code: those with the value g are at
 * fine[v << fine_bits | g] onwards. */
typedef struct {
    int fine_bits, spare_bits;
    uint32_t *offsets, *fine;
    uint32_t *rows;   /* from the first of the run, and above them the last `spare_bits` of the next
                         sub-code */
    uint16_t *pairs;  /* of LANES entries the next sub-code, then the one after it, and so on */
    uint16_t *thirds; /* the one after that; both are NULL where codes were not copied */
} Table;

typedef struct {
    size_t first, count;
    int row_bits;
    Table tables[MAX_TABLES];
} Run;

static inline uint16_t *pair_at(const Table *table, size_t entry) {
    return table->pairs + (entry / LANES * 2 * LANES + entry % LANES);
}

/* Rows numbered through all parts. */
typedef struct {
    const Part *parts;
    size_t part_count;
    size_t *starts;   /* part_count + 1 */
    uint32_t *blocks; /* the part of the first row of each block; NULL for one part */
} Rows;

enum { BLOCK_BITS = 12 };

static inline const Part *find_part(const Rows *rows, size_t row, size_t *at) {
    size_t p = 0;
    if (rows->blocks)
        for (p = rows->blocks[row >> BLOCK_BITS]; row >= rows->starts[p + 1];) p++;
    *at = row - rows->starts[p];
    return &rows->parts[p];
}

static inline const char *word_at(const Part *part, size_t at, int word) {
    return part->planes + word * part->plane_stride + (ptrdiff_t)at * part->row_stride;
}

static inline void load(const Part *part, size_t at, int words, uint64_t *code) {
    for (int w = 0; w < words; w++) memcpy(&code[w], word_at(part, at, w), sizeof code[w]);
}

/* What building and searching read from Python; with an exception set, 0. */
int read_cut(PyObject *object, Cut *cut);
int read_run(const Py_buffer *block, const Cut *cut, Py_ssize_t first, Py_ssize_t count,
             int copied, Run *run);

/* Number the rows of parts. Returns 0 if memory ran out; forget them anyway. */
int number_rows(Rows *rows, const Part *parts, size_t count);
void forget_rows(Rows *rows);

/* One query in one run. */
typedef struct {
    const Cut *cut;
    const Plan *plan;
    const Rows *rows;
    const Run *run;
    const uint64_t *query;
    Selection *best;
    int exact;                     /* an entry's copied sub-codes tell its whole distance */
    uint32_t sub[MAX_TABLES];      /* sub-codes of the query */
    uint32_t weight[MAX_TABLES];   /* the least of any bit of the table; 0: the table is of no use */
    int reach[MAX_TABLES];         /* how far the table was searched; -1: not at all */
} Search;

typedef struct {
    uint32_t value, start, end;
} Bucket;

/* Begin to bring a bucket into the cache. Always inlined: gcc takes a function that only fetches for
 * one without effect, and drops the calls. */
static ALWAYS_INLINE void fetch(const Table *table, const Bucket *b) {
    const char *from = (const char *)(table->rows + b->start);
    if (table->pairs) from = (const char *)(table->pairs + 2 * (b->start & ~(uint32_t)(LANES - 1)));
    size_t bytes = (size_t)(b->end - b->start) * 4 + 60;
    for (size_t i = 0; i < bytes && i < 1024; i += 64) PREFETCH(from + i);
    if (table->fine_bits) PREFETCH(&table->fine[b->value << table->fine_bits]);
}

/* Offer the candidates of some buckets, all at distance `near` in `table`, to the selection. */
typedef void (*Sift)(Search *search, int table, int near, const Bucket *buckets, int count);

/* The loops for ids alone or for copied codes that `path` can run. */
Sift find_sift(const char *path, int copied);

/* No code that was not shown yet is nearer than this. */
static inline uint32_t proven(const Search *s) {
    uint32_t bound = 0;
    for (int t = 0; t < s->cut->count; t++) bound += s->weight[t] * (uint32_t)(s->reach[t] + 1);
    return bound;
}

PyObject *kernel_tables_size(PyObject *self, PyObject *args);
PyObject *kernel_tables_build(PyObject *self, PyObject *args);
PyObject *kernel_tables_search(PyObject *self, PyObject *args);

#endif
