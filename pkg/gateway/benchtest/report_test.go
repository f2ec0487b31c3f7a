package main

import (
	"errors"
	"flag"
	"io"
	"strings"
	"testing"
	"time"
)

func TestTableComparesRoundByRound(t *testing.T) {
	other := &row{name: nameRivalAll, cost: []float64{10, 20, 40, 20}, pace: []float64{1, 2, 3, 4}}
	ours := (&row{name: nameAll, cost: []float64{12, 22, 44, 26}, pace: []float64{1, 1, 1, 1}, allocations: []float64{20.96}}).besides(other)
	text := (&table{title: "Title", per: "request", rows: []*row{other, ours}, alloc: true}).text()
	for _, want := range []string{
		"**Title**\n\n| what | CPU µs per request",
		"| --- | --- | --- | --- | --- |\n",
		"| " + nameRivalAll + " | 20.0 (10.0 to 40.0) |  | 2 |  |\n",
		"| " + nameAll + " | 24.0 (12.0 to 44.0) | 1.15 (1.10 to 1.30) | 1 | 21.0 |\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the table lacks %q:\n%s", want, text)
		}
	}
}

func TestSmallCostsKeepTheirDigits(t *testing.T) {
	text := (&table{per: "event", rows: []*row{{name: "a", cost: []float64{0.123, 0.456}, pace: []float64{1}}}}).text()
	if !strings.Contains(text, "| a | 0.29 (0.12 to 0.46) |") {
		t.Error(text)
	}
}

func TestARowThatFallsBehindSaysSo(t *testing.T) {
	for pace, want := range map[float64]string{3990: "| 3990 |", 3000: "| 3000 of 4000 |"} {
		if text := (&table{rows: []*row{{cost: []float64{1}, pace: []float64{pace}, rate: 4000}}}).text(); !strings.Contains(text, want) {
			t.Errorf("%q lacks %q", text, want)
		}
	}
}

func TestFactsAreATable(t *testing.T) {
	f := &facts{title: "Facts", columns: []string{"what", "ms"}}
	f.add("a start", "12")
	if got, want := f.text(), "**Facts**\n\n| what | ms |\n| --- | --- |\n| a start | 12 |\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestPreambleNamesTheCommand(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "`make bench`: 6 rounds of 1.2s, 64 connections"},
		{[]string{"-doc", "x.md", "-program", "bin/keywarden"}, "`make bench`"},
		{[]string{"-rounds", "4", "-set", "a.b=1", "-set", "c.d=2"}, "`go run ./pkg/gateway/benchtest -rounds=4 -set=a.b=1 -set=c.d=2`: 4 rounds"},
	} {
		s, flags, err := parse(c.args, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		if got := preamble(s, flags); !strings.Contains(got, c.want) {
			t.Errorf("%v: %q lacks %q", c.args, got, c.want)
		}
	}
}

func TestFlagsThatMakeNoSenseAreRefused(t *testing.T) {
	for _, args := range []string{
		"-rounds 3", "-check -rounds 9", "-window 0s", "-connections 0", "-set novalue", "-set =1", "-parts nothing", "-profile x", "word",
	} {
		_, _, err := parse(strings.Fields(args), io.Discard)
		if err == nil {
			t.Errorf("%s is accepted", args)
		}
	}
	s, _, err := parse([]string{"-rounds", "1", "-only", nameAll, "-profile", "cpu.pb", "-parts", "saturation,rate", "-nethttp", "-window", "3s"}, io.Discard)
	if err != nil || !s.netHTTP || s.window != 3*time.Second || len(s.parts) != 2 {
		t.Errorf("got %+v, %v", s, err)
	}
	if _, _, err := parse([]string{"-help"}, io.Discard); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("-help: %v", err)
	}
}
