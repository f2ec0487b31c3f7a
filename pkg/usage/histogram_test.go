package usage

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestBucketsAreInOrderAndLoseNoMoreThanPromised(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.Int64Range(0, maxMicroseconds).Draw(t, "a"), rapid.Int64Range(0, maxMicroseconds).Draw(t, "b")
		if a > b {
			a, b = b, a
		}
		one, two := time.Duration(a)*time.Microsecond, time.Duration(b)*time.Microsecond
		if BucketOf(one) > BucketOf(two) {
			t.Fatalf("the bucket of %v is after that of %v", one, two)
		}
		if off := math.Abs(float64(BucketValue(BucketOf(one)) - one)); off > RelativeError*float64(one) {
			t.Fatalf("%v is told as %v", one, BucketValue(BucketOf(one)))
		}
	})
}

func TestEveryBucketHoldsItsOwnValue(t *testing.T) {
	for b := range uint16(MaxBucket + 1) {
		if got := BucketOf(BucketValue(b)); got != b {
			t.Fatalf("the value of bucket %d, %v, is in bucket %d", b, BucketValue(b), got)
		}
	}
	for d, want := range map[time.Duration]uint16{
		-time.Second: 0, 0: 0, 999 * time.Nanosecond: 0, time.Microsecond: 1, math.MaxInt64: MaxBucket,
		(maxMicroseconds + 1) * time.Microsecond: MaxBucket,
	} {
		if got := BucketOf(d); got != want {
			t.Errorf("%v is in bucket %d, want %d", d, got, want)
		}
	}
	if got := BucketValue(math.MaxUint16); got != BucketValue(MaxBucket) {
		t.Errorf("a bucket that does not exist is %v", got)
	}
}

// The database adds up the counts of equal buckets, in whatever order.
func TestOrderDoesNotMatterToAHistogram(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.SliceOf(rapid.Int64Range(0, int64(time.Hour))).Draw(t, "durations")
		cut := rapid.IntRange(0, len(list)).Draw(t, "cut")
		var whole, left, right Histogram
		for i, d := range list {
			whole.Add(time.Duration(d))
			if i < cut {
				left.Add(time.Duration(d))
			} else {
				right.Add(time.Duration(d))
			}
		}
		if !slices.IsSorted(whole.Buckets) || len(slices.Compact(slices.Clone(whole.Buckets))) != len(whole.Buckets) {
			t.Fatalf("buckets %v", whole.Buckets)
		}
		var n int64
		for _, c := range whole.Counts {
			n += c
		}
		if n != int64(len(list)) {
			t.Fatalf("%d of %d counted", n, len(list))
		}
		if diff := cmp.Diff(asMap(whole), merged(right, left)); diff != "" {
			t.Fatal(diff)
		}
	})
}

func asMap(h Histogram) map[uint16]int64 { return merged(h) }

func merged(list ...Histogram) map[uint16]int64 {
	m := map[uint16]int64{}
	for _, h := range list {
		for i, b := range h.Buckets {
			m[b] += h.Counts[i]
		}
	}
	return m
}

func TestMergedHistogramsAreThoseOfAllDurations(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		durations := rapid.SliceOf(rapid.Int64Range(0, 1e7))
		a, b := durations.Draw(t, "a"), durations.Draw(t, "b")
		var one, other, all Histogram
		for _, us := range a {
			one.Add(time.Duration(us) * time.Microsecond)
			all.Add(time.Duration(us) * time.Microsecond)
		}
		for _, us := range b {
			other.Add(time.Duration(us) * time.Microsecond)
			all.Add(time.Duration(us) * time.Microsecond)
		}
		kept := other.clone()
		one.Merge(other)
		if !slices.Equal(one.Buckets, all.Buckets) || !slices.Equal(one.Counts, all.Counts) {
			t.Fatalf("%v, want %v", one, all)
		}
		one.Merge(other)
		if !slices.Equal(other.Counts, kept.Counts) {
			t.Fatal("what was merged has changed")
		}
		both := append(slices.Clone(a), b...)
		slices.Sort(both)
		for _, q := range []float64{0.5, 0.95, 0.99, 1} {
			var want time.Duration
			if len(both) > 0 {
				want = time.Duration(both[int(math.Ceil(q*float64(len(both))))-1]) * time.Microsecond
			}
			if got := all.Quantile(q); math.Abs(float64(got-want)) > RelativeError*float64(want)+1 {
				t.Fatalf("%v of %d is %v, want %v", q, len(both), got, want)
			}
		}
	})
}
