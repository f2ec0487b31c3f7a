package usage

import (
	"math/bits"
	"slices"
	"time"
)

// Histogram is how often durations were seen, in buckets of a fixed relative width:
// 16 in each power of two of microseconds, as HdrHistogram has them. Histograms are
// merged by adding the counts of the same bucket, in any order, in memory as in SQL.
// The zero value is empty. It is not safe for concurrent use.
type Histogram struct {
	Buckets []uint16 // sorted; only those that were hit
	Counts  []int64  // of the bucket at the same index
}

const (
	subBits    = 4 // 2^4 buckets in each power of two
	subBuckets = 1 << subBits

	// maxMicroseconds bounds what is told apart: about 71 minutes.
	maxMicroseconds = 1<<32 - 1

	// MaxBucket is the number of the last bucket.
	MaxBucket = (32-subBits)*subBuckets + subBuckets - 1
)

// RelativeError bounds how far a quantile is from the value that it stands for, which is
// in whole microseconds, in parts of it, up to 71 minutes.
const RelativeError = 1.0 / 32

// BucketOf is the number of the bucket of a duration.
func BucketOf(d time.Duration) uint16 {
	v := uint64(min(max(d.Microseconds(), 0), maxMicroseconds))
	if v < subBuckets {
		return uint16(v)
	}
	shift := bits.Len64(v) - subBits - 1
	return uint16(shift*subBuckets + int(v>>shift))
}

// BucketValue is the duration that stands for those of a bucket: its middle.
func BucketValue(bucket uint16) time.Duration {
	b := uint64(min(bucket, MaxBucket))
	if b < 2*subBuckets {
		return time.Duration(b) * time.Microsecond
	}
	shift := b/subBuckets - 1
	low := (b%subBuckets + subBuckets) << shift
	high := low + 1<<shift - 1 // the last whole microsecond
	return time.Duration(low+high) * time.Microsecond / 2
}

// Add counts d.
func (h *Histogram) Add(d time.Duration) {
	bucket := BucketOf(d)
	i, found := slices.BinarySearch(h.Buckets, bucket)
	if !found {
		h.Buckets = slices.Insert(h.Buckets, i, bucket)
		h.Counts = slices.Insert(h.Counts, i, 0)
	}
	h.Counts[i]++
}

// clone is a copy that shares nothing.
func (h *Histogram) clone() Histogram {
	return Histogram{Buckets: slices.Clone(h.Buckets), Counts: slices.Clone(h.Counts)}
}

// Merge adds the counts of o, which it shares nothing with afterwards.
func (h *Histogram) Merge(o Histogram) {
	missing, i := 0, 0
	for _, bucket := range o.Buckets {
		for i < len(h.Buckets) && h.Buckets[i] < bucket {
			i++
		}
		if i == len(h.Buckets) || h.Buckets[i] != bucket {
			missing++
		}
	}
	// From the end, so that what is there moves but once.
	i, j := len(h.Buckets)-1, len(o.Buckets)-1
	h.Buckets = append(h.Buckets, make([]uint16, missing)...)
	h.Counts = append(h.Counts, make([]int64, missing)...)
	for k := len(h.Buckets) - 1; j >= 0; k-- {
		switch {
		case i >= 0 && h.Buckets[i] > o.Buckets[j]:
			h.Buckets[k], h.Counts[k] = h.Buckets[i], h.Counts[i]
			i--
		case i >= 0 && h.Buckets[i] == o.Buckets[j]:
			h.Buckets[k], h.Counts[k] = h.Buckets[i], h.Counts[i]+o.Counts[j]
			i, j = i-1, j-1
		default:
			h.Buckets[k], h.Counts[k] = o.Buckets[j], o.Counts[j]
			j--
		}
	}
}

// Quantile is the duration that the share q of all, from 0 to 1, took at most, within
// [RelativeError]; 0 for an empty histogram.
func (h *Histogram) Quantile(q float64) time.Duration {
	var all, below int64
	for _, n := range h.Counts {
		all += n
	}
	for i, n := range h.Counts {
		if below += n; float64(below) >= q*float64(all) {
			return BucketValue(h.Buckets[i])
		}
	}
	return 0
}
