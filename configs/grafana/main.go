// Command grafana writes the dashboards of Keywarden, as JSON for Grafana, into the
// folder dashboards beside this file: "go run ./configs/grafana", or "make generate".
// boards.go says what is on them, layout.go what Grafana wants to be told of that.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	dir := flag.String("dir", "configs/grafana/dashboards", "folder to write into")
	flag.Parse()
	if err := write(*dir); err != nil {
		fmt.Fprintln(os.Stderr, "grafana:", err)
		os.Exit(1)
	}
}

// write writes all boards into dir.
func write(dir string) error {
	for name, text := range files() {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil { //nolint:gosec // everybody may read them
			return err
		}
	}
	return nil
}

// files are the boards by the names of their files.
func files() map[string][]byte {
	all := map[string][]byte{}
	for _, b := range boards() {
		var text bytes.Buffer
		enc := json.NewEncoder(&text)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		if err := enc.Encode(b.dashboard()); err != nil {
			panic(err) // there is nothing in a board that could not be encoded
		}
		all[b.name+".json"] = text.Bytes()
	}
	return all
}
