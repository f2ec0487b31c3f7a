package config

import "github.com/keywarden/keywarden/pkg/bytesize"

// Size is a number of bytes, written with a binary unit.
type Size = bytesize.Size

// The units of a size.
const (
	KiB = bytesize.KiB
	MiB = bytesize.MiB
	GiB = bytesize.GiB
	TiB = bytesize.TiB
)
