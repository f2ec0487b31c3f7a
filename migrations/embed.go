// Package migrations holds the schema as numbered SQL files, in the form that
// golang-migrate reads. It holds no code: pkg/store/postgres applies them.
package migrations

import "embed"

// FS holds the migrations.
//
//go:embed *.sql
var FS embed.FS
