/* The exact scan: what its paths (one an instruction set, see path.h) and its driver share. */
#ifndef CHASH_SCAN_H
#define CHASH_SCAN_H

#include "select.h"

enum {
    MAX_WORDS = 8,     /* 512 bits */
    MAX_TERMS = 255,   /* distinct weights above 0 */
    MAX_STRETCHES = 512, /* words of terms with any bit: at most one a bit */
    MAX_SLICES = 18,   /* 255 * 512 < 2^17, and the slice above */
    MAX_LIMITS = 1024, /* below, what a limit needs is kept */
    GROUP_BITS = 3,    /* bit planes that share a table, see path.h */
    WORD_GROUPS = 22,  /* ceil(64 / GROUP_BITS) */
    TILE = 2048,       /* codes a step: 16 KB a word, half of a level-1 cache */
    FEW_QUERIES = 8,   /* below, codes are compared one by one, not in slices */
    AHEAD = 2048,      /* bytes fetched ahead of a single query */
};

/* A stretch of codes: word w of row i is at planes + w * plane_stride + i * row_stride. */
typedef struct {
    const char *planes;
    ptrdiff_t plane_stride, row_stride;
    size_t rows;
    const int64_t *ids; /* NULL: the id is first_id + row */
    int64_t first_id;
    const uint8_t *dead; /* NULL: none */
} Part;

/* How a single query is compared. PLAIN: one word that counts as it is. BYTES: the bits of each byte
 * weigh the same. TERMS: any plan. */
typedef enum { PLAIN, BYTES, TERMS } Mode;

/* A distance: sum over terms of weight * popcount((a ^ b) & mask). */
typedef struct {
    int words, terms;
    Mode mode;
    uint64_t byte_weights[MAX_WORDS]; /* of BYTES */
    uint32_t longest; /* the largest distance there can be */
    uint64_t masks[MAX_TERMS][MAX_WORDS];
    uint32_t weights[MAX_TERMS];
} Plan;

typedef struct {
    const Part *parts;
    size_t part_count;
    const uint64_t *queries; /* (count, words) */
    size_t count;
    const Plan *plan;
    Selection *best; /* one a query */
} Job;

/* Offer every live code to every query's selection. Returns 0 if memory ran out. */
typedef int (*Scan)(const Job *job);

/* The scan of a path; NULL and a ValueError if this machine does not have it. */
Scan find_path(const char *name);

/* Buffers of a call, released together. */
typedef struct {
    Py_buffer *views;
    Py_ssize_t count;
} Held;

/* What scan and tables read from Python; with an exception set, NULL or 0. */
Py_buffer *hold(Held *held, PyObject *object);
/* All parts of a list, into memory that `held` and the caller release. */
Part *read_parts(PyObject *list, int words, Held *held);
int read_plan(PyObject *masks, PyObject *weights, int words, Held *held, Plan *plan);

/* (counts int64, rows int64, distances int32), as bytes: the hits of all queries in turn. */
PyObject *answer(Selection *best, size_t count);

#endif
