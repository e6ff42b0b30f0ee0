#include "select.h"

enum { FIRST_ROOM = 64 };

int selection_open(Selection *s, size_t k, uint32_t bound, int ascending) {
    memset(s, 0, sizeof *s);
    s->k = k;
    s->farthest = bound;
    s->limit = k ? bound + 1 : 0;
    s->ascending = ascending;
    s->tie = INT64_MAX;
    s->room = FIRST_ROOM;
    s->hits = malloc(s->room * sizeof *s->hits);
    s->histogram = calloc((size_t)bound + 1, sizeof *s->histogram);
    s->failed = !s->hits || !s->histogram;
    if (s->failed) s->limit = 0;
    return !s->failed;
}

void selection_close(Selection *s) {
    free(s->hits);
    free(s->histogram);
    s->hits = NULL;
    s->histogram = NULL;
}

static int nearer(const void *a, const void *b) {
    const Hit *x = a, *y = b;
    if (x->distance != y->distance) return x->distance < y->distance ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

/* Drop what is beyond the limit by now. Ties at it that cannot be told apart yet stay, unless they
 * are so many that sorting them away is cheaper than keeping them. */
static void prune(Selection *s) {
    size_t kept = 0;
    for (size_t i = 0; i < s->count; i++)
        if (s->hits[i].distance <= s->farthest) s->hits[kept++] = s->hits[i];
    s->count = kept;
    if (kept > 2 * s->k) {
        qsort(s->hits, kept, sizeof *s->hits, nearer);
        s->histogram[s->farthest] -= (uint32_t)(kept - s->k);
        s->count = s->within = s->k;
        s->tie = s->hits[s->k - 1].id;
    }
}

void selection_add(Selection *s, uint32_t distance, int64_t row, int64_t id) {
    if (distance == s->farthest && id > s->tie) return;
    if (s->count == s->room) {
        prune(s);
        if (s->count > s->room / 2) {
            Hit *more = realloc(s->hits, 2 * s->room * sizeof *more);
            if (!more) {
                s->failed = 1;
                s->limit = 0;
                return;
            }
            s->hits = more;
            s->room *= 2;
        }
        if (distance >= s->limit || (distance == s->farthest && id > s->tie)) return;
    }
    s->hits[s->count++] = (Hit){row, id, distance};
    s->histogram[distance]++;
    s->within++;
    if (s->within < s->k) return;
    while (s->within - s->histogram[s->farthest] >= s->k) {
        s->within -= s->histogram[s->farthest--];
        s->tie = INT64_MAX;
    }
    s->limit = s->farthest + !s->ascending;
}

void selection_finish(Selection *s) {
    size_t kept = 0;
    for (size_t i = 0; i < s->count; i++)
        if (s->hits[i].distance <= s->farthest) s->hits[kept++] = s->hits[i];
    qsort(s->hits, kept, sizeof *s->hits, nearer);
    s->count = kept < s->k ? kept : s->k;
}
