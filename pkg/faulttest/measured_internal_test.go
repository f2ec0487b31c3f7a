package faulttest

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestMeasurementsStandBetweenTheirMarkers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.md")
	if err := os.WriteFile(file, []byte("| A | <!-- A -->old<!-- end --> |\n| B | <!-- B --><!-- end --> |\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][2]string{{"B", "one"}, {"A", "1 | 2"}, {"B", "two\nlines"}} {
		if err := write(file, c[0], c[1]); err != nil {
			t.Fatal(err)
		}
	}
	const want = "| A | <!-- A -->1 \\| 2<!-- end --> |\n| B | <!-- B -->two lines<!-- end --> |\n"
	if text, err := os.ReadFile(file); err != nil || string(text) != want {
		t.Errorf("got %q, %v", text, err)
	}
	if write(file, "C", "x") == nil {
		t.Error("there is no place for it, and it was written")
	}
}

func TestPercentile(t *testing.T) {
	var list []time.Duration
	for i := range 100 {
		list = append(list, time.Duration(100-i))
	}
	for p, want := range map[float64]time.Duration{0: 1, 50: 51, 99: 100, 100: 100} {
		if got := Percentile(list, p); got != want {
			t.Errorf("p%v is %d, want %d", p, got, want)
		}
	}
	if Percentile(nil, 99) != 0 {
		t.Error("of nothing")
	}
}
