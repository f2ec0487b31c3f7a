package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// The files in dashboards are what "make dashboards" writes, and there is no other.
func TestBoardsAreAsWritten(t *testing.T) {
	all := files()
	for name, want := range all {
		got, err := os.ReadFile(filepath.Join("dashboards", name))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("dashboards/%s is not current (%v): make dashboards", name, err)
		}
	}
	there, err := os.ReadDir("dashboards")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range there {
		if all[f.Name()] == nil {
			t.Errorf("nobody writes dashboards/%s", f.Name())
		}
	}
}

func TestPanelsFlowIntoLines(t *testing.T) {
	p := func(width int, k kind) panel { return panel{title: "p", kind: k, width: width} }
	b := board{rows: []row{{"a", []panel{p(16, graph), p(4, figure), p(8, graph)}}, {"b", []panel{p(24, figure)}}}}
	var got [][3]int
	for _, one := range b.dashboard()["panels"].([]object) {
		place := one["gridPos"].(object)
		got = append(got, [3]int{place["x"].(int), place["y"].(int), place["w"].(int)})
	}
	want := [][3]int{{0, 0, 24}, {0, 1, 16}, {16, 1, 4}, {0, 9, 8}, {0, 17, 24}, {0, 18, 24}}
	if len(got) != len(want) {
		t.Fatalf("%v", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("panel %d is at %v, want %v", i, got[i], want[i])
		}
	}
}
