/* What x86 needs said: which functions may use which instructions, and the bits of bytes in AVX2. */
#ifndef CHASH_X86_H
#define CHASH_X86_H

#include "kernel.h"

#if (defined(__GNUC__) || defined(__clang__)) && (defined(__x86_64__) || defined(__i386__))
#define X86
#include <immintrin.h>
#define POPCNT __attribute__((target("popcnt")))
#define AVX2 __attribute__((target("avx2,popcnt")))
#define HAS_POPCNT() __builtin_cpu_supports("popcnt")

/* The set bits of each byte: no popcount of vectors here, so that of each half byte from a table. */
AVX2 static inline __m256i byte_counts(__m256i x) {
    const __m256i low = _mm256_set1_epi8(15);
    const __m256i table = _mm256_setr_epi8(
        0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,
        0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    __m256i a = _mm256_shuffle_epi8(table, _mm256_and_si256(x, low));
    __m256i b = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(x, 4), low));
    return _mm256_add_epi8(a, b);
}
#else
#define POPCNT
#define HAS_POPCNT() 0
#endif

#endif
