// Package bytesize reads and writes numbers of bytes with their binary unit, as
// configuration files have them.
package bytesize

import (
	"errors"
	"math"
	"strconv"
	"strings"
)

// Size is a number of bytes. It is written with a binary unit, "64KiB", so that
// nobody has to wonder whether a thousand or 1024 is meant.
type Size int64

// The units of a size.
const (
	KiB Size = 1 << 10
	MiB Size = 1 << 20
	GiB Size = 1 << 30
	TiB Size = 1 << 40
)

var errSize = errors.New("must be a size with its unit (B, KiB, MiB, GiB or TiB), such as 64KiB or 1MiB")

// sizeUnits maps the suffixes to bytes, the largest first; "B" is last because
// it ends all of them.
func sizeUnits() []struct {
	suffix string
	bytes  Size
} {
	return []struct {
		suffix string
		bytes  Size
	}{{"TiB", TiB}, {"GiB", GiB}, {"MiB", MiB}, {"KiB", KiB}, {"B", 1}}
}

// Parse reads digits and a unit without anything between, before or after
// them. Only 0 needs no unit.
func Parse(text string) (Size, error) {
	if text == "0" {
		return 0, nil
	}
	for _, unit := range sizeUnits() {
		digits, ok := strings.CutSuffix(text, unit.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(digits, 10, 63)
		if err != nil || n > uint64(math.MaxInt64/unit.bytes) {
			return 0, errSize
		}
		return Size(n) * unit.bytes, nil
	}
	return 0, errSize
}

// String is the shortest exact form that [Parse] reads.
func (s Size) String() string {
	for _, unit := range sizeUnits() {
		if s != 0 && s%unit.bytes == 0 {
			return strconv.FormatInt(int64(s/unit.bytes), 10) + unit.suffix
		}
	}
	return "0"
}
