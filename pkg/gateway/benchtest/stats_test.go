package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMedianIsTheMiddleOfTheList(t *testing.T) {
	for _, c := range []struct {
		list []float64
		want float64
	}{{[]float64{3}, 3}, {[]float64{9, 1, 2}, 2}, {[]float64{40, 10, 30, 20}, 25}} {
		before := append([]float64{}, c.list...)
		if got := median(c.list); got != c.want {
			t.Errorf("the median of %v is %v, want %v", c.list, got, c.want)
		}
		if !cmp.Equal(before, c.list) {
			t.Errorf("the rounds %v were put in another order: %v", before, c.list)
		}
	}
}

func TestRatiosAreThoseOfTheSameRound(t *testing.T) {
	got := ratios([]float64{10, 40, 90}, []float64{20, 20, 30, 5})
	if diff := cmp.Diff([]float64{0.5, 2, 3}, got); diff != "" {
		t.Error(diff)
	}
}

func TestSpreadOfNothingIsEmpty(t *testing.T) {
	if got := spread(nil, 1); got != "" {
		t.Errorf("got %q", got)
	}
	if got := spread([]float64{1, 4, 2}, 1); got != "2.0 (1.0 to 4.0)" {
		t.Errorf("got %q", got)
	}
}
