package policies

import (
	"time"

	"github.com/keywarden/keywarden/pkg/spec/check"
)

// Quotas bound how much somebody may use in a long time. They are kept in a ledger
// that all replicas share, and are never overdrawn.
type Quotas struct {
	Gate
	Quotas []Quota `json:"quotas"`
}

// Quota is one of them.
type Quota struct {
	// Name tells the quota from others in the fields of the answer and in the ledger.
	Name string `json:"name"`

	Subject

	// Limit is how many units there are in each period.
	Limit int64 `json:"limit"`

	Period string `json:"period" enum:"minute,hour,day,week,month"`

	// TimeZone is where days, weeks (from Monday) and months begin, a name of the IANA
	// time zone database.
	TimeZone string `json:"time_zone"`

	// Rolling lets the period begin with the first request, and not with the calendar.
	Rolling bool `json:"rolling,omitempty"`

	// Shared is one account for all routes that have a quota of this name; without it
	// each route has its own.
	Shared bool `json:"shared,omitempty"`

	Cost

	// CostResponseHeader names the field of the answer in which the service says what
	// the request has cost in the end. The client does not see it.
	CostResponseHeader string `json:"cost_response_header,omitempty"`

	// WhenUnavailable is what becomes of requests while the ledger does not answer and
	// this replica has no units left.
	WhenUnavailable string `json:"when_unavailable" enum:"refuse,allow"`
}

// Periods of quotas, and what to do without the ledger.
const (
	PeriodMinute = "minute"
	PeriodHour   = "hour"
	PeriodDay    = "day"
	PeriodWeek   = "week"
	PeriodMonth  = "month"

	UnavailableRefuse = "refuse"
	UnavailableAllow  = "allow"
)

// maxQuota bounds the units of a quota.
const maxQuota = 1_000_000_000_000

// Short names the field that a bare value stands for.
func (*Quotas) Short() string { return "quotas" }

// SetDefaults fills in what a document need not say.
func (q *Quota) SetDefaults() { q.TimeZone, q.WhenUnavailable = "UTC", UnavailableRefuse }

func (q *Quotas) Validate(path string, v *check.Checker) {
	limits(path+".quotas", q.Quotas, v)
}

func (q *Quota) name() string { return q.Name }

func (q *Quota) Validate(path string, v *check.Checker) {
	v.Name(path, q.Name)
	q.Subject.Validate(path, v)
	if q.Limit < 1 || q.Limit > maxQuota {
		v.Fail(path+".limit", "must be from 1 to %d", int64(maxQuota))
	}
	v.OneOf(path+".period", q.Period, PeriodMinute, PeriodHour, PeriodDay, PeriodWeek, PeriodMonth)
	if _, err := time.LoadLocation(q.TimeZone); err != nil || q.TimeZone == "" || q.TimeZone == "Local" {
		v.Fail(path+".time_zone", "must be a name of the time zone database, such as UTC or Europe/Berlin")
	}
	q.Cost.Validate(path, v)
	if q.CostResponseHeader != "" && !check.IsToken(q.CostResponseHeader) {
		v.Fail(path+".cost_response_header", "must be the name of a header field")
	}
	v.OneOf(path+".when_unavailable", q.WhenUnavailable, UnavailableRefuse, UnavailableAllow)
}
