package alert_test

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/alert"
	"github.com/keywarden/keywarden/pkg/problem"
)

// fields are the names of the fields that err says are wrong.
func fields(t *testing.T, err error) (names []string) {
	t.Helper()
	var p *problem.Error
	if err != nil && (!errors.As(err, &p) || p.Kind != problem.Invalid) {
		t.Fatalf("%v is no refusal of input", err)
	}
	if p != nil {
		for _, f := range p.Fields {
			names = append(names, f.Field)
		}
	}
	return names
}

func TestRulesAreCompletedAndChecked(t *testing.T) {
	good := alert.Spec{Name: "errors", Signal: alert.ServerErrorRate, Threshold: 5, ResolveThreshold: 2}
	want := good
	want.Window, want.MinRequests, want.Severity, want.Channels = 5*time.Minute, 20, alert.Warning, []string{}
	if diff := cmp.Diff(want, good.Complete()); diff != "" {
		t.Error(diff)
	}
	for _, s := range alert.Signals() {
		spec := alert.Spec{Name: "x", Signal: s, Threshold: 5, ResolveThreshold: 5}
		if err := spec.Complete().Validate(); err != nil {
			t.Errorf("%s with its defaults: %+v", s, err)
		}
	}
	for name, c := range map[string]struct {
		change func(*alert.Spec)
		wrong  []string
	}{
		"nothing":                    {func(*alert.Spec) {}, nil},
		"no name":                    {func(s *alert.Spec) { s.Name = "" }, []string{"name"}},
		"a name with a line break":   {func(s *alert.Spec) { s.Name = "a\r\nBcc: x" }, []string{"name"}},
		"a name that turns around":   {func(s *alert.Spec) { s.Name = "a\u202eb" }, []string{"name"}},
		"a long name":                {func(s *alert.Spec) { s.Name = strings.Repeat("ä", 101) }, []string{"name"}},
		"a long summary":             {func(s *alert.Spec) { s.Summary = strings.Repeat("x", 501) }, []string{"summary"}},
		"an unknown signal":          {func(s *alert.Spec) { s.Signal = "server_error_rat" }, []string{"signal"}},
		"an unknown severity":        {func(s *alert.Spec) { s.Severity = "page" }, []string{"severity"}},
		"a window of seconds":        {func(s *alert.Spec) { s.Window = 90 * time.Second }, []string{"window"}},
		"a long window":              {func(s *alert.Spec) { s.Window = 7 * time.Hour }, []string{"window"}},
		"a negative window":          {func(s *alert.Spec) { s.Window = -time.Minute }, []string{"window"}},
		"a percentile":               {func(s *alert.Spec) { s.Percentile = 99 }, []string{"percentile"}},
		"another percentile":         {func(s *alert.Spec) { s.Signal, s.Percentile = alert.Latency, 42 }, []string{"percentile"}},
		"something to compare with":  {func(s *alert.Spec) { s.CompareTo = time.Hour }, []string{"compare_to"}},
		"to compare with itself":     {func(s *alert.Spec) { s.Signal, s.CompareTo = alert.TrafficDrop, time.Minute }, []string{"compare_to"}},
		"more than everything":       {func(s *alert.Spec) { s.Threshold = 101 }, []string{"threshold"}},
		"no threshold":               {func(s *alert.Spec) { s.Threshold = 0 }, []string{"threshold", "resolve_threshold"}},
		"no number":                  {func(s *alert.Spec) { s.Threshold = math.NaN() }, []string{"threshold"}},
		"hysteresis the wrong way":   {func(s *alert.Spec) { s.ResolveThreshold = 6 }, []string{"resolve_threshold"}},
		"the other wrong way":        {func(s *alert.Spec) { s.Signal, s.Window = alert.KeyExpiry, 0 }, []string{"resolve_threshold"}},
		"a window of the present":    {func(s *alert.Spec) { s.Signal, s.Window, s.ResolveThreshold = alert.TargetsDown, time.Minute, 5 }, []string{"window"}},
		"a filter":                   {func(s *alert.Spec) { s.Filter = map[string]string{"route": "a", "key": ""} }, nil},
		"an unknown filter":          {func(s *alert.Spec) { s.Filter = map[string]string{"rute": "a"} }, []string{"filter.rute"}},
		"a filter that means itself": {func(s *alert.Spec) { s.Filter = map[string]string{"status": "5"} }, []string{"filter.status"}},
		"a filter of nothing": {func(s *alert.Spec) {
			s.Signal, s.ResolveThreshold, s.Filter = alert.QuotaReached, 5, map[string]string{"route": "a"}
		}, []string{"filter"}},
		"a minimum of nothing": {func(s *alert.Spec) { s.Signal, s.MinRequests = alert.QuotaReached, 3 }, []string{"min_requests"}},
		"a negative minimum":   {func(s *alert.Spec) { s.MinRequests = -1 }, []string{"min_requests"}},
		"for ever":             {func(s *alert.Spec) { s.For = 25 * time.Hour }, []string{"for"}},
		"negative times":       {func(s *alert.Spec) { s.For, s.ResolveAfter = -1, -1 }, []string{"for", "resolve_after"}},
		"channels by name":     {func(s *alert.Spec) { s.Channels = []string{"ops"} }, []string{"channels[0]"}},
		"a channel twice": {func(s *alert.Spec) {
			s.Channels = []string{"0198c1f4-5b2e-7c3a-8f11-2d6f0f6a7b90", "0198c1f4-5b2e-7c3a-8f11-2d6f0f6a7b90"}
		}, []string{"channels[1]"}},
	} {
		spec := good
		c.change(&spec)
		if diff := cmp.Diff(c.wrong, fields(t, spec.Complete().Validate())); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
