/* The loops over buckets of candidates: which of them can still enter the selection.
 *
 * A candidate counts when it was in no table's reach before, so that it counts once. It is then
 * beyond the reach of every table but its own, which leaves it little room: one sub-code more, out
 * of the next table, rules most candidates out before their code is looked at. */
#include "tables.h"
#include "x86.h"

/* What is left for the distance in the next tables, once `table` has taken `near` of it and the
 * others the least they must; negative when nothing can enter. */
static int64_t room_for_next(const Search *s, int table, int near, int next_count) {
    int64_t room = (int64_t)s->best->limit - 1 - (int64_t)s->weight[table] * near;
    for (int t = 0; t < s->cut->count; t++)
        if (t != table) room -= (int64_t)s->weight[t] * (s->reach[t] + 1);
    for (int j = 0; j < next_count; j++) {
        int t = next_table(s->cut, table, j);
        if (t >= 0) room += (int64_t)s->weight[t] * (s->reach[t] + 1);
    }
    return room;
}

/* The farthest the next sub-code may be; -1 when nothing can enter. */
static int farthest_next(const Search *s, int table, int near) {
    int next = next_table(s->cut, table, 0);
    int64_t room = room_for_next(s, table, near, 1);
    if (room < 0) return -1;
    if (next < 0 || !s->weight[next]) return WIDEST;
    int64_t most = room / s->weight[next];
    return most < s->reach[next] + 1 ? -1 : most < WIDEST ? (int)most : WIDEST;
}

static void offer(Search *s, size_t row, const Part *part, size_t at, uint32_t distance) {
    if (distance >= s->best->limit || (part->dead && part->dead[at])) return;
    int64_t id = part->ids ? part->ids[at] : part->first_id + (int64_t)at;
    selection_add(s->best, distance, (int64_t)row, id);
}

#define LOOPS(name) portable_##name
#define TARGET
#include "sift.h"
#undef LOOPS
#undef TARGET

#ifdef X86
#define LOOPS(name) popcnt_##name
#define TARGET POPCNT
#include "sift.h"
#undef LOOPS
#undef TARGET

/* What the distances in the next tables may come to, as 16-bit lanes. */
AVX2 static inline __m256i room16(const Search *s, int table, int near, int next_count) {
    int64_t room = room_for_next(s, table, near, next_count);
    return _mm256_set1_epi16((short)(room < 0 ? -1 : room < INT16_MAX ? room : INT16_MAX));
}

typedef struct {
    __m256i query[NEXT], weight[NEXT];
} Next;

/* The weighted distance in the j-th next table of LANES sub-codes. */
AVX2 static inline __m256i distances16(const Next *next, int j, const uint16_t *sub_codes) {
    __m256i x = _mm256_load_si256((const __m256i *)sub_codes);
    return _mm256_maddubs_epi16(next->weight[j], byte_counts(_mm256_xor_si256(x, next->query[j])));
}

typedef struct {
    uint32_t from, lanes; /* LANES entries; two bits for each that is still a candidate */
} Group;

AVX2 static void avx2_take(Search *s, int table, int near, const Next *next, const Group *list, int count) {
    const Table *in = &s->run->tables[table];
    __m256i most = room16(s, table, near, NEXT);
    for (int i = 0; i < count; i++) {
        size_t from = list[i].from;
        __m256i total = _mm256_add_epi16(distances16(next, 0, in->pairs + 2 * from),
                                         distances16(next, 1, in->pairs + 2 * from + LANES));
        total = _mm256_add_epi16(total, distances16(next, 2, in->thirds + from));
        uint32_t far = (uint32_t)_mm256_movemask_epi8(_mm256_cmpgt_epi16(total, most));
        uint32_t lanes = list[i].lanes & ~far;
        if (!lanes) continue;
        for (; lanes; lanes &= ~(3u << __builtin_ctz(lanes)))
            popcnt_take(s, table, near, from + (size_t)__builtin_ctz(lanes) / 2);
        most = room16(s, table, near, NEXT);
    }
}

/* Groups in which the next two sub-codes leave some entry room for the third. */
AVX2 static void avx2_sift_copied(Search *s, int table, int near, const Bucket *buckets, int count) {
    const Table *in = &s->run->tables[table];
    Next next;
    Group list[GROUPS];
    int listed = 0;
    for (int j = 0; j < NEXT; j++) {
        int t = next_table(s->cut, table, j);
        next.query[j] = _mm256_set1_epi16((short)(t < 0 ? 0 : s->sub[t]));
        next.weight[j] = _mm256_set1_epi8((char)(t < 0 ? 0 : s->weight[t]));
    }
    __m256i most = room16(s, table, near, 2);
    for (int i = 0; i < count && i < FETCHED; i++) fetch(in, &buckets[i]);
    for (int i = 0; i < count; i++) {
        if (i + FETCHED < count) fetch(in, &buckets[i + FETCHED]);
        int64_t start = buckets[i].start, end = buckets[i].end;
        for (int64_t from = start & ~(int64_t)(LANES - 1); from < end; from += LANES) {
            const uint16_t *pairs = in->pairs + 2 * from;
            __m256i sum = _mm256_add_epi16(distances16(&next, 0, pairs), distances16(&next, 1, pairs + LANES));
            uint32_t lanes = ~(uint32_t)_mm256_movemask_epi8(_mm256_cmpgt_epi16(sum, most));
            if (!lanes) continue;
            if (from < start) lanes &= ~0u << 2 * (start - from);
            if (end - from < LANES) lanes &= ~(~0u << 2 * (end - from));
            PREFETCH(in->thirds + from);
            list[listed] = (Group){(uint32_t)from, lanes};
            if (++listed < GROUPS) continue;
            avx2_take(s, table, near, &next, list, listed);
            listed = 0;
            most = room16(s, table, near, 2);
        }
    }
    avx2_take(s, table, near, &next, list, listed);
}
#endif

Sift find_sift(const char *path, int copied) {
#ifdef X86
    if (strcmp(path, "portable"))
        return copied ? avx2_sift_copied : popcnt_sift_rows;
#else
    (void)path;
#endif
    return copied ? portable_sift_copied : portable_sift_rows;
}
