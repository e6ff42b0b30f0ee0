/* The loops over buckets, code by code: included by sift.c once for each way to count bits, with
 * LOOPS(name) the name with its suffix and TARGET the attribute of the functions. */

TARGET static inline uint32_t LOOPS(distance)(const Search *s, const uint64_t *x) {
    const Plan *plan = s->plan;
    uint32_t total = 0;
    for (int t = 0; t < plan->terms; t++) {
        uint32_t bits = 0;
        for (int w = 0; w < plan->words; w++) bits += POPCOUNT(x[w] & plan->masks[t][w]);
        total += plan->weights[t] * bits;
    }
    return total;
}

/* Whether a code that differs by `x` was in the reach of another table. */
TARGET static inline int LOOPS(was_shown)(const Search *s, int table, const uint64_t *x) {
    for (int t = 0; t < s->cut->count; t++) {
        if (t == table || s->reach[t] < 0) continue;
        int bits = 0;
        for (int w = 0; w < s->cut->words; w++) bits += (int)POPCOUNT(x[w] & s->cut->masks[t][w]);
        if (bits <= s->reach[t]) return 1;
    }
    return 0;
}

/* Compare the code of `row` itself. */
TARGET static inline void LOOPS(verify)(Search *s, int table, size_t row) {
    size_t at;
    const Part *part = find_part(s->rows, row, &at);
    uint64_t x[MAX_WORDS];
    for (int w = 0; w < s->cut->words; w++) {
        memcpy(&x[w], word_at(part, at, w), sizeof x[w]);
        x[w] ^= s->query[w];
    }
    uint32_t distance = LOOPS(distance)(s, x);
    if (distance < s->best->limit && !LOOPS(was_shown)(s, table, x)) offer(s, row, part, at, distance);
}

/* The same for many rows; the codes of 64 bits of one part under one weight, the common case, are
 * ruled out without a call. */
TARGET static void LOOPS(verify_all)(Search *s, int table, const uint32_t *list, int count) {
    enum { AHEAD_BY = 24 };
    size_t at, first = s->run->first;
    if (s->cut->words == 1 && s->plan->terms == 1 && s->rows->part_count == 1) {
        const char *codes = word_at(s->rows->parts, first, 0);
        const ptrdiff_t stride = s->rows->parts->row_stride;
        const uint64_t query = s->query[0], mask = s->plan->masks[0][0];
        const uint32_t weight = s->plan->weights[0];
        uint32_t limit = s->best->limit;
        for (int i = 0; i < count && i < AHEAD_BY; i++) PREFETCH(codes + list[i] * stride);
        for (int i = 0; i < count; i++) {
            uint64_t x;
            PREFETCH(codes + list[i + AHEAD_BY < count ? i + AHEAD_BY : i] * stride);
            memcpy(&x, codes + list[i] * stride, sizeof x);
            x = (x ^ query) & mask;
            if (weight * POPCOUNT(x) >= limit) continue;
            LOOPS(verify)(s, table, first + list[i]);
            limit = s->best->limit;
        }
        return;
    }
    for (int i = 0; i < count + AHEAD_BY; i++) {
        if (i < count) {
            const Part *part = find_part(s->rows, first + list[i], &at);
            for (int w = 0; w < s->cut->words; w++) PREFETCH(word_at(part, at, w));
        }
        if (i >= AHEAD_BY) LOOPS(verify)(s, table, first + list[i - AHEAD_BY]);
    }
}

/* Rows below `count` of entries that differ from `key` in at most `most` of their spare bits. */
TARGET static inline int LOOPS(list_rows)(
    const uint32_t *rows, uint32_t start, uint32_t end, size_t count, uint32_t key, uint32_t low,
    int most, uint32_t *list) {
    int listed = 0;
    for (uint32_t j = start; j < end; j++) {
        uint32_t entry = rows[j];
        list[listed] = entry & low;
        listed += ((int)POPCOUNT((entry ^ key) & ~low) <= most) & ((entry & low) < count);
    }
    return listed;
}

TARGET static void LOOPS(sift_rows)(Search *s, int table, int near, const Bucket *buckets, int count) {
    const Table *in = &s->run->tables[table];
    uint32_t list[2 * LIST];
    int next = next_table(s->cut, table, 0), listed = 0, most = farthest_next(s, table, near);
    uint32_t low = s->run->row_bits < 32 ? (1u << s->run->row_bits) - 1 : ~0u;
    uint32_t sub = next < 0 ? 0 : s->sub[next];
    uint32_t key = in->spare_bits ? (sub & ((1u << in->spare_bits) - 1)) << s->run->row_bits : 0;
    uint32_t fine = in->fine_bits ? sub >> (s->cut->width[next] - in->fine_bits) : 0;
    for (int i = 0; i < count && i < FETCHED; i++) fetch(in, &buckets[i]);
    for (int i = 0; i < count && most >= 0; i++) {
        if (i + FETCHED < count) fetch(in, &buckets[i + FETCHED]);
        Bucket b = buckets[i];
        /* Sparse buckets are not worth a look at each of their parts. */
        int whole = b.end - b.start < 2u << in->fine_bits;
        const uint32_t ends[2] = {b.start, b.end};
        uint32_t groups = whole ? 1 : 1u << in->fine_bits;
        const uint32_t *at = whole ? ends : &in->fine[b.value << in->fine_bits];
        for (uint32_t g = 0; g < groups; g++) {
            int left = whole ? most : most - (int)POPCOUNT(g ^ fine);
            if (left < 0) continue;
            uint32_t last = at[g + 1] < b.end ? at[g + 1] : b.end;
            for (uint32_t j = at[g] < b.start ? b.start : at[g]; j < last; j += LIST) {
                uint32_t end = last - j < LIST ? last : j + LIST;
                listed += LOOPS(list_rows)(
                    in->rows, j, end, s->run->count, key, low, left, list + listed);
                if (listed < LIST) continue;
                LOOPS(verify_all)(s, table, list, listed);
                listed = 0;
                most = farthest_next(s, table, near);
            }
        }
    }
    LOOPS(verify_all)(s, table, list, listed);
}

/* An entry whose copied sub-codes are near enough: its distance, or its code where they are not all. */
TARGET static inline void LOOPS(take)(Search *s, int table, int near, size_t entry) {
    const Table *in = &s->run->tables[table];
    uint32_t low = s->run->row_bits < 32 ? (1u << s->run->row_bits) - 1 : ~0u;
    const uint16_t *pair = pair_at(in, entry);
    const uint32_t copied[NEXT] = {pair[0], pair[LANES], in->thirds[entry]};
    uint32_t distance = s->weight[table] * (uint32_t)near;
    for (int j = 0; j < NEXT; j++) {
        int t = next_table(s->cut, table, j);
        if (t < 0) break;
        int bits = (int)POPCOUNT(copied[j] ^ s->sub[t]);
        if (bits <= s->reach[t]) return;
        distance += s->weight[t] * (uint32_t)bits;
    }
    size_t row = in->rows[entry] & low, at;
    if (distance >= s->best->limit || row >= s->run->count) return;
    row += s->run->first;
    if (s->exact) {
        const Part *part = find_part(s->rows, row, &at);
        offer(s, row, part, at, distance);
    } else {
        LOOPS(verify)(s, table, row);
    }
}

TARGET static inline void LOOPS(sift_copied)(
    Search *s, int table, int near, const Bucket *buckets, int count) {
    const Table *in = &s->run->tables[table];
    int next = next_table(s->cut, table, 0);
    uint32_t key = next < 0 ? 0 : s->sub[next];
    int least = next < 0 ? 0 : s->reach[next] + 1, most = farthest_next(s, table, near);
    for (int i = 0; i < count; i++)
        for (uint32_t j = buckets[i].start; j < buckets[i].end; j++) {
            int bits = (int)POPCOUNT(*pair_at(in, j) ^ key);
            if (bits < least || bits > most) continue;
            LOOPS(take)(s, table, near, j);
            most = farthest_next(s, table, near);
        }
}
