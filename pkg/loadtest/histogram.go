package loadtest

import (
	"math/bits"
	"time"
)

// Buckets of a histogram: each power of two of microseconds is cut into 64 of
// the same width, so that no value is more than 1/64 off, as in HdrHistogram.
const (
	subBits     = 7
	subBuckets  = 1 << subBits   // of one microsecond each, and then
	halfBuckets = subBuckets / 2 // for each power of two
	powers      = 31             // up to 2^38 µs, more than three days
	allBuckets  = subBuckets + powers*halfBuckets
)

// Histogram counts durations. The zero value is empty. It is not safe for
// concurrent use: each worker has its own, and they are merged.
type Histogram struct {
	counts   []int64
	n        int64
	sum      time.Duration
	min, max time.Duration
}

// bucketOf is the index of a duration's bucket.
func bucketOf(d time.Duration) int {
	us := uint64(max(d, 0) / time.Microsecond)
	if us < subBuckets {
		return int(us)
	}
	power := bits.Len64(us) - subBits // at least 1
	if power > powers {
		return allBuckets - 1
	}
	// Of the values of a power the highest bit is set: they need half as many buckets.
	return subBuckets + (power-1)*halfBuckets + int(us>>power) - halfBuckets
}

// topOf is the longest duration that falls into the bucket.
func topOf(bucket int) time.Duration {
	if bucket < subBuckets {
		return time.Duration(bucket+1)*time.Microsecond - 1
	}
	power := (bucket-subBuckets)/halfBuckets + 1
	sub := (bucket-subBuckets)%halfBuckets + halfBuckets
	return time.Duration(sub+1)<<power*time.Microsecond - 1
}

// Add counts a duration; one below zero counts as zero.
func (h *Histogram) Add(d time.Duration) {
	if h.counts == nil {
		h.counts = make([]int64, allBuckets)
	}
	d = max(d, 0)
	h.counts[bucketOf(d)]++
	if h.n == 0 || d < h.min {
		h.min = d
	}
	h.n++
	h.sum += d
	h.max = max(h.max, d)
}

// Merge adds what other has counted.
func (h *Histogram) Merge(other *Histogram) {
	if other.n == 0 {
		return
	}
	if h.counts == nil {
		h.counts = make([]int64, allBuckets)
	}
	for i, n := range other.counts {
		h.counts[i] += n
	}
	if h.n == 0 || other.min < h.min {
		h.min = other.min
	}
	h.n += other.n
	h.sum += other.sum
	h.max = max(h.max, other.max)
}

// Count is how many durations there are.
func (h *Histogram) Count() int64 { return h.n }

// Max is the longest; 0 of none.
func (h *Histogram) Max() time.Duration { return h.max }

// Mean is 0 of none.
func (h *Histogram) Mean() time.Duration {
	if h.n == 0 {
		return 0
	}
	return h.sum / time.Duration(h.n)
}

// Quantile is a duration that q of all (0 to 1) do not exceed: exact for the
// shortest and the longest, otherwise at most 1/64 too long. 0 of none.
func (h *Histogram) Quantile(q float64) time.Duration {
	if h.n == 0 {
		return 0
	}
	rank := int64(q * float64(h.n))
	if float64(rank) < q*float64(h.n) {
		rank++
	}
	rank = max(1, rank)
	seen := int64(0)
	for bucket, n := range h.counts {
		if bucket == allBuckets-1 {
			break // it has no top
		}
		if seen += n; seen >= rank {
			return max(h.min, min(topOf(bucket), h.max))
		}
	}
	return h.max
}
