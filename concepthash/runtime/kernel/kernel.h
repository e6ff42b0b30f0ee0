/* What the sources of the native kernel share. Built as concepthash.runtime._kernel against the
 * limited API, so that one build serves CPython 3.11 and later. */
#ifndef CHASH_KERNEL_H
#define CHASH_KERNEL_H

#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#include <Python.h>

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__GNUC__) || defined(__clang__)
#define POPCOUNT(x) ((uint32_t)__builtin_popcountll(x))
#define PREFETCH(address) __builtin_prefetch(address)
#define ALWAYS_INLINE inline __attribute__((always_inline))
#else
static inline uint32_t POPCOUNT(uint64_t x) {
    x -= (x >> 1) & 0x5555555555555555u;
    x = (x & 0x3333333333333333u) + ((x >> 2) & 0x3333333333333333u);
    x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu;
    return (uint32_t)((x * 0x0101010101010101u) >> 56);
}
#define PREFETCH(address) ((void)(address))
#define ALWAYS_INLINE inline
#endif

#endif
