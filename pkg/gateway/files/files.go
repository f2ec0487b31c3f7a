// Package files says which files of the machine a gateway document may name.
package files

import (
	"path/filepath"

	"github.com/keywarden/keywarden/pkg/spec"
	"github.com/keywarden/keywarden/pkg/strictyaml"
)

// Allowed are the files that may be named; the zero value is none. What they hold
// can reach a service, as a password or a certificate: who may only write documents
// must not get at any other file.
type Allowed struct {
	Anywhere bool   // every file
	Dir      string // files below this folder; empty: none
}

// Check refuses a document that names a file it may not. The error is a
// *spec.Violations.
func (a Allowed) Check(doc *spec.Document) error {
	if a.Anywhere {
		return nil
	}
	var found strictyaml.Collector
	for _, file := range doc.Files() {
		if !a.holds(file.Name) {
			detail := "must be below gateway.files_dir, " + a.Dir
			if a.Dir == "" {
				detail = "this document may name no file: gateway.files_dir is not set"
			}
			found.Add(spec.Violation{Place: spec.Place{Path: file.Path}, Detail: detail})
		}
	}
	return found.Report("")
}

// holds reports whether the file is below the folder, wherever links lead.
func (a Allowed) holds(name string) bool {
	if a.Dir == "" || !filepath.IsAbs(name) || !below(filepath.Clean(a.Dir), filepath.Clean(name)) {
		return false
	}
	dir, err := filepath.EvalSymlinks(a.Dir)
	if err != nil {
		return false
	}
	real, err := filepath.EvalSymlinks(name)
	if err != nil {
		return true // there is none, which is found out when it is read
	}
	return below(dir, real)
}

func below(dir, name string) bool {
	rest, err := filepath.Rel(dir, name)
	return err == nil && filepath.IsLocal(rest) && rest != "."
}
