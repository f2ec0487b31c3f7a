package main

import (
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// ownProcess is this process, as if it were the one that serves addr.
func ownProcess(t *testing.T, addr string) *process {
	t.Helper()
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	return &process{cmd: &exec.Cmd{Process: self}, addr: addr}
}

func TestAWindowIsMeasured(t *testing.T) {
	server := httptest.NewServer(backend())
	defer server.Close()
	p := ownProcess(t, server.Listener.Addr().String())
	for _, r := range []*row{
		get("answers", p, "/bench/"+item, false),
		{name: "events", process: p, events: true, request: get("", p, "/bench/"+ticks, false).request},
	} {
		if err := r.measure(t.Context(), settings{window: 200 * time.Millisecond, connections: 2}); err != nil {
			t.Fatalf("%s: %v", r.name, err)
		}
		if len(r.cost) != 1 || r.cost[0] <= 0 || len(r.pace) != 1 || r.pace[0] <= 0 {
			t.Errorf("%s: cost %v, pace %v", r.name, r.cost, r.pace)
		}
	}
}

// A load that fails ends the window at once, however long that is, and says why.
func TestAWindowEndsWithItsLoad(t *testing.T) {
	server := httptest.NewServer(backend())
	defer server.Close()
	r := get("nothing", ownProcess(t, server.Listener.Addr().String()), "/bench/nothing", false)
	err := r.measure(t.Context(), settings{window: time.Hour, connections: 2})
	if err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("got %v", err)
	}
	if len(r.cost) > 0 {
		t.Errorf("%v was measured", r.cost)
	}
}

func TestAProcessTellsItsMemoryAndTime(t *testing.T) {
	p := ownProcess(t, "")
	m, err := p.memory()
	if err != nil {
		t.Fatal(err)
	}
	if m.anonymous < 1<<20 || m.resident < m.anonymous {
		t.Errorf("got %+v", m)
	}
	before := p.cpu()
	for deadline := time.Now().Add(time.Minute); p.cpu() <= before; {
		if time.Now().After(deadline) {
			t.Fatal("a loop takes no time")
		}
	}
}

func TestNumbersAreFoundInWhatIsTold(t *testing.T) {
	text := []byte("# TYPE go_memstats_mallocs_total counter\ngo_memstats_mallocs_total 6.1977e+07\n")
	if got, err := number(text, `(?m)^go_memstats_mallocs_total (\S+)$`); err != nil || got != 61977000 {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := number(text, `(?m)^nothing (\S+)$`); err == nil {
		t.Error("nothing was found")
	}
}

// Each round begins with another row, and each row has its turn in each round.
func TestRoundsAreInterleaved(t *testing.T) {
	one := &table{rows: []*row{{name: "a"}, {name: "b"}, {name: "c"}}}
	for round, want := range []string{"abc", "bca", "cab", "abc"} {
		got := ""
		for _, r := range one.turns(round) {
			got += r.name
		}
		if got != want {
			t.Errorf("the order of round %d is %q, want %q", round, got, want)
		}
	}
}
