package main

import (
	"bufio"
	"strings"
	"testing"
	"time"
)

func TestReportComparesRoundByRound(t *testing.T) {
	bare := &subject{name: nameBare, cost: []float64{10, 20, 40, 20}, rate: []float64{1, 2, 3, 4}}
	gateway := &subject{name: nameGateway, cost: []float64{12, 22, 44, 26}, rate: []float64{1, 1, 1, 1}}
	table := report([]*subject{bare, gateway}, settings{rounds: 4, window: time.Second, connections: 64})
	for _, want := range []string{
		"| " + nameBare + " | 20.0 (10.0 to 40.0) | 1.00 (1.00 to 1.00) | 2 |",
		"| " + nameGateway + " | 24.0 (12.0 to 44.0) | 1.15 (1.10 to 1.30) | 1 |",
	} {
		if !strings.Contains(table, want) {
			t.Errorf("the table lacks %q:\n%s", want, table)
		}
	}
}

func TestOnlyWholeAnswersCount(t *testing.T) {
	for text, ok := range map[string]bool{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab":   true,
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab":   false,
		"HTTP/1.1 200 OK\r\n\r\nab":                        false,
		"HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\nab": false,
		"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nab": false,
	} {
		if err := readAnswer(bufio.NewReader(strings.NewReader(text))); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
}
