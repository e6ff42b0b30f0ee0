/* The k nearest of a stream of hits, in (distance, id) order: a histogram of distances and a
 * running limit, no heap.
 *
 * A hit may enter while its distance is below `limit`. Each time k hits lie nearer than the
 * farthest kept distance, the limit falls. Where hits are offered in ascending id order a later
 * hit cannot win a tie, so the limit is strict; otherwise ties at it are kept and settled by id. */
#ifndef CHASH_SELECT_H
#define CHASH_SELECT_H

#include "kernel.h"

typedef struct {
    int64_t row, id;
    uint32_t distance;
} Hit;

typedef struct {
    Hit *hits;           /* kept so far, in the order offered; some may be beyond the limit by now */
    size_t count, room;
    size_t k, within;    /* how many are wanted; how many of `hits` are at `farthest` or nearer */
    uint32_t farthest;   /* the largest distance that still counts */
    uint32_t limit;      /* a hit is admitted if its distance is below this */
    int64_t tie;         /* at `farthest`, an id beyond this has lost; INT64_MAX: not known */
    uint32_t *histogram; /* of the distances in `hits`, 0..farthest */
    int ascending;       /* ids ascend with the order of offering */
    int failed;          /* memory ran out */
} Selection;

/* Begin: `bound` is the largest distance of a hit. Returns 0 if memory ran out; close it anyway. */
int selection_open(Selection *s, size_t k, uint32_t bound, int ascending);

/* Take a hit with distance < s->limit. */
void selection_add(Selection *s, uint32_t distance, int64_t row, int64_t id);

/* Sort what was found and cut it to k: s->hits[0..s->count) is the answer. */
void selection_finish(Selection *s);

void selection_close(Selection *s);

#endif
