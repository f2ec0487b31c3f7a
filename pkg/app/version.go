package app

import (
	"cmp"
	"runtime/debug"
)

// Build says which program this is.
type Build struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Go      string `json:"go"`
}

// The linker sets these (-X) where the Go tool records nothing: an image is built
// without the history of the repository.
var linkedVersion, linkedCommit string

// Version reads what the linker or, without that, the Go tool recorded in the
// binary.
func Version() Build {
	b := recorded()
	b.Version, b.Commit = cmp.Or(linkedVersion, b.Version), cmp.Or(linkedCommit, b.Commit)
	return b
}

// recorded is what the Go tool recorded.
func recorded() Build {
	b := Build{Version: "development", Commit: "unknown", Go: "unknown"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	b.Go = info.GoVersion
	if v := info.Main.Version; v != "" && v != "(devel)" {
		b.Version = v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			b.Commit = s.Value
		}
	}
	return b
}
