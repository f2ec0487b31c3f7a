package analyticsapi

import (
	"encoding/csv"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/keywarden/keywarden/pkg/analytics"
	"github.com/keywarden/keywarden/pkg/httpapi/figures"
)

const mimeCSV = "text/csv"

// writeCSV writes a line for each group, or for each interval of each (RFC 4180).
// Without groups it is the total.
func (q *question) writeCSV(c *gin.Context, r analytics.Report) error {
	c.Header("Content-Type", mimeCSV+"; charset=utf-8; header=present")
	c.Header("Content-Disposition", `attachment; filename="analytics.csv"`)
	c.Header("X-Content-Type-Options", "nosniff")
	c.Status(http.StatusOK)
	w := csv.NewWriter(c.Writer)
	w.UseCRLF = true
	var heads []string
	for _, d := range q.By {
		heads = append(heads, figures.Parameter(d))
	}
	if q.Step != analytics.Whole {
		heads = append(heads, "at")
	}
	_ = w.Write(append(heads, "requests", "refused", "client_errors", "server_errors", "request_bytes", "response_bytes", "p50_ms", "p95_ms", "p99_ms"))
	groups := r.Groups
	if len(q.By) == 0 {
		groups = []analytics.Group{{Totals: r.Total, Series: r.Series}}
	}
	for _, g := range groups {
		var line []string
		for _, d := range q.By {
			line = append(line, cell(g.Values[d]))
		}
		if q.Step == analytics.Whole {
			_ = w.Write(numbers(line, g.Totals))
			continue
		}
		for _, p := range g.Series {
			_ = w.Write(numbers(append(line[:len(line):len(line)], p.At.Format(time.RFC3339)), p.Totals))
		}
	}
	w.Flush()
	return nil // whoever has left needs no answer
}

func numbers(line []string, totals analytics.Totals) []string {
	line = line[:len(line):len(line)]
	t := showTotals(totals)
	for _, n := range []int64{t.Requests, t.Refused, t.ClientErrors, t.ServerErrors, t.RequestBytes, t.ResponseBytes} {
		line = append(line, strconv.FormatInt(n, 10))
	}
	for _, ms := range []float64{t.P50, t.P95, t.P99} {
		line = append(line, strconv.FormatFloat(ms, 'f', -1, 64))
	}
	return line
}

// cell is a text that no spreadsheet takes for a formula. Names of routes and apps are
// other people's.
func cell(text string) string {
	if text != "" && strings.ContainsRune("=+-@\t\r\n|%＝＋－＠", []rune(text)[0]) {
		return "'" + text
	}
	return text
}
