package bytesize_test

import (
	"testing"

	"github.com/keywarden/keywarden/pkg/bytesize"
)

func TestSizesAreWrittenWithABinaryUnit(t *testing.T) {
	good := map[string]bytesize.Size{"0": 0, "0B": 0, "1B": 1, "64KiB": 64 * bytesize.KiB, "1MiB": bytesize.MiB, "3GiB": 3 * bytesize.GiB, "8388607TiB": 8388607 * bytesize.TiB}
	for text, want := range good {
		if got, err := bytesize.Parse(text); err != nil || got != want {
			t.Errorf("bytesize.Parse(%q) = %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "1", "64KB", "64kib", "64 KiB", " 1B", "1B ", "-1B", "+1B", "1.5MiB", "1_0B", "0x1B", "KiB", "B", "8388608TiB", "9223372036854775808B",
	} {
		if got, err := bytesize.Parse(text); err == nil {
			t.Errorf("bytesize.Parse(%q) = %d, want an error", text, got)
		}
	}
	forms := map[bytesize.Size]string{0: "0", 1: "1B", 1025: "1025B", bytesize.KiB: "1KiB", 1536 * bytesize.MiB: "1536MiB", 2 * bytesize.TiB: "2TiB"}
	for size, want := range forms {
		if got := size.String(); got != want {
			t.Errorf("bytesize.Size(%d) = %q, want %q", int64(size), got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range []string{"0", "1B", "64KiB", "1MiB", "9TiB", "KiB", "-1B", "9223372036854775807B"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		size, err := bytesize.Parse(text)
		if err != nil {
			return
		}
		if size < 0 {
			t.Fatalf("bytesize.Parse(%q) = %d", text, size)
		}
		if again, err := bytesize.Parse(size.String()); err != nil || again != size {
			t.Fatalf("%q is %d, written %q, read %d, %v", text, size, size, again, err)
		}
	})
}
