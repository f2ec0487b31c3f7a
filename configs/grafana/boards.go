package main

import (
	"fmt"
	"strings"
)

// boards are all of them, in the order in which one looks.
func boards() []board {
	return []board{overview(), routes(), consumers(), stores(), objectives()}
}

// in puts what every query selects by into the selectors of an expression: each {} and
// each {§ is one of the chosen job and replicas.
func in(expr string) string {
	chosen := `job="$job",instance=~"$instance"`
	expr = strings.ReplaceAll(expr, "{}", "{"+chosen+"}")
	return strings.ReplaceAll(expr, "{§", "{"+chosen+",")
}

// graphOf is a graph of one expression.
func graphOf(title, about, unit string, width int, expr, legend string) panel {
	return panel{title: title, about: about, kind: graph, unit: unit, width: width, of: []query{{expr: in(expr), legend: legend}}}
}

// figureOf is one number.
func figureOf(title, about, unit, expr string, steps ...step) panel {
	return panel{title: title, about: about, kind: figure, unit: unit, width: 4, steps: steps, of: []query{{expr: in(expr)}}}
}

// and is the panel with one more query.
func (p panel) and(expr, legend string) panel {
	p.of = append(p.of[:len(p.of):len(p.of)], query{expr: in(expr), legend: legend})
	return p
}

// from is the panel with a colour from a value on.
func (p panel) from(value float64, colour string) panel {
	p.steps = append(p.steps[:len(p.steps):len(p.steps)], step{value, colour})
	return p
}

// wide is the panel over so many columns.
func (p panel) wide(columns int) panel {
	p.width = columns
	return p
}

// What scrapes and probes ask for is none of the traffic.
const (
	traffic   = `{§http_route!~"/metrics|/healthz|/readyz"}`
	failing   = `{§http_route!~"/metrics|/healthz|/readyz",error_type!~"|client_disconnected"}`
	ofRoute   = `{§http_route=~"$route"}`
	ofService = `{§keywarden_service=~"$service"}`

	requests = "http_server_request_duration_seconds_count"
	latency  = "http_server_request_duration_seconds_bucket"
)

// quantiles is a graph of percentiles of a histogram, with dots that lead to traces.
func quantiles(title, about string, width int, buckets string) panel {
	p := panel{title: title, about: about, kind: graph, unit: "s", width: width}
	for _, q := range []struct{ of, name string }{{"0.5", "p50"}, {"0.95", "p95"}, {"0.99", "p99"}} {
		p.of = append(p.of, query{
			expr:   in(fmt.Sprintf("histogram_quantile(%s, sum by (le) (rate(%s[$__rate_interval])))", q.of, buckets)),
			legend: q.name, exemplars: q.of == "0.99",
		})
	}
	return p
}

func overview() board {
	return board{
		name: "overview", title: "Keywarden / Overview",
		about: "Whether the platform serves, how fast, and with what. From here on: routes, consumers, stores, objectives.",
		rows: []row{
			{"Now", []panel{
				figureOf("Requests", "Requests a second, without scrapes and probes.", "reqps",
					"sum(rate("+requests+traffic+"[$__rate_interval]))"),
				figureOf("Success", "Share of requests that were answered, with a status below 500 and to the end.", "percentunit",
					"1 - (sum(rate("+requests+failing+"[$__rate_interval])) or vector(0)) / (sum(rate("+requests+traffic+"[$__rate_interval])) > 0)",
					step{0, "red"}, step{0.99, "orange"}, step{0.999, "green"}),
				figureOf("p99", "Latency of the slowest hundredth; the time of the services counts.", "s",
					"histogram_quantile(0.99, sum by (le) (rate("+latency+traffic+"[$__rate_interval])))", step{0.1, "orange"}, step{1, "red"}),
				figureOf("Replicas", "Replicas that answer Prometheus.", "short", "sum(up{})"),
				figureOf("Targets down", "Targets of services that at least one replica sends nothing to.", "short",
					"count(min by (keywarden_service, keywarden_target) (keywarden_target_available{}) == 0) or vector(0)", step{1, "red"}),
				figureOf("Breakers open", "Services whose breaker is open at some replica.", "short",
					"sum(max by (keywarden_service) (keywarden_service_breaker_open{})) or vector(0)", step{1, "red"}),
			}},
			{"Requests", []panel{
				graphOf("Requests by status class", "Answers a second by the first digit of their status. 4xx are the callers', 5xx ours or the services'.", "reqps", 8,
					`sum by (class) (label_replace(rate(`+requests+traffic+`[$__rate_interval]), "class", "${1}xx", "http_response_status_code", "(.).."))`, "{{class}}"),
				graphOf("Error share", "Share of requests with a status of 500 to 599, or cut off by us.", "percentunit", 8,
					"(sum(rate("+requests+failing+"[$__rate_interval])) or vector(0)) / (sum(rate("+requests+traffic+"[$__rate_interval])) > 0)", "errors").from(0.001, "red"),
				quantiles("Latency", "From the first byte of a request to the last one of its answer. Dots are traces.", 8, latency+traffic),
				graphOf("In flight", "Requests that are being worked on, and those of the gateway among them.", "short", 8,
					"sum(http_server_active_requests{})", "all").and("sum(keywarden_gateway_in_flight{})", "gateway"),
				graphOf("Connections", "Open connections of each listener.", "short", 8,
					"sum by (keywarden_listener) (keywarden_server_connections{})", "{{keywarden_listener}}"),
				graphOf("Refused for want of room", "Connections over a cap, and requests over gateway.max_in_flight, a second.", "ops", 8,
					"sum by (cap) (rate(keywarden_server_connections_refused_total{}[$__rate_interval]))", "connections: {{cap}}").
					and("sum(rate(keywarden_gateway_saturated_total{}[$__rate_interval]))", "requests"),
			}},
			{"The document and what is known", []panel{
				figureOf("Routes", "Routes in force.", "short", "max(keywarden_gateway_routes{})"),
				figureOf("Revision", "Number of the revision in force, the lowest of all replicas; 0 for a file.", "none", "min(keywarden_gateway_revision{})"),
				figureOf("Age of the document", "Time since the document in force was applied, of the replica that is furthest behind.", "s", "max(keywarden_gateway_document_age_seconds{})"),
				figureOf("Refused documents", "Replicas that go on with the last good document.", "short", "sum(keywarden_gateway_document_refused{})", step{1, "red"}),
				figureOf("Unusable objects", "Routes and services that cannot be served.", "short", "max(sum by (instance) (keywarden_gateway_objects_unusable{}))", step{1, "red"}),
				figureOf("Next certificate", "Time until the first certificate expires.", "s", "min(keywarden_tls_certificate_expires_in_seconds{})",
					step{0, "red"}, step{7 * 86400, "orange"}, step{21 * 86400, "green"}),
			}},
			{"Resources", []panel{
				graphOf("CPU", "Cores that each replica uses.", "short", 8, "rate(process_cpu_seconds_total{}[$__rate_interval])", "{{instance}}"),
				graphOf("Memory", "Resident memory of each replica, and what GOMEMLIMIT allows where it is set.", "bytes", 8,
					"process_resident_memory_bytes{}", "{{instance}}").and("go_gc_gomemlimit_bytes{} < 1e15", "limit {{instance}}"),
				graphOf("File descriptors", "Share of the file descriptors that are open.", "percentunit", 8, "process_open_fds{} / process_max_fds{}", "{{instance}}"),
				graphOf("Goroutines", "Goroutines of each replica: what grows for hours leaks.", "short", 8, "go_goroutines{}", "{{instance}}"),
				graphOf("Garbage collection", "Time a second that the program stood still for it.", "s", 8, "rate(go_gc_duration_seconds_sum{}[$__rate_interval])", "{{instance}}"),
				graphOf("Lost log lines", "Lines a second that nobody took in time.", "short", 8, "rate(keywarden_log_lines_lost_total{}[$__rate_interval])", "{{instance}}"),
				{title: "Versions", about: "Which program each replica runs.", kind: table, unit: "short", width: 24, of: []query{{expr: in("keywarden_build_info{}")}}},
			}},
		},
	}
}

func routes() board {
	return board{
		name: "routes", title: "Keywarden / Routes and services",
		about: "Rate, errors and duration of each route, and the services behind them.",
		variables: []variable{
			{"route", "Route", `label_values(` + requests + `{job="$job",http_route!=""}, http_route)`, ""},
			{"service", "Service", `label_values(keywarden_target_available{job="$job"}, keywarden_service)`, ""},
		},
		rows: []row{
			{"Routes", []panel{
				graphOf("Requests", "Requests a second of each route.", "reqps", 8, "sum by (http_route) (rate("+requests+ofRoute+"[$__rate_interval]))", "{{http_route}}"),
				graphOf("Answers by status class", "Answers a second of each route by the first digit of their status.", "reqps", 8,
					`sum by (http_route, class) (label_replace(rate(`+requests+ofRoute+`[$__rate_interval]), "class", "${1}xx", "http_response_status_code", "(.).."))`, "{{http_route}} {{class}}"),
				graphOf("Errors", "Requests a second of each route with a status of 500 to 599, cut off by us, or given up by the client.", "reqps", 8,
					`sum by (http_route, error_type) (rate(`+requests+`{§http_route=~"$route",error_type!=""}[$__rate_interval]))`, "{{http_route}} {{error_type}}"),
				graphOf("p95 by route", "Latency that 95 of 100 requests keep. Streams last as long as they last.", "s", 8,
					"histogram_quantile(0.95, sum by (http_route, le) (rate("+latency+ofRoute+"[$__rate_interval])))", "{{http_route}}"),
				graphOf("p99 by route", "Latency that 99 of 100 requests keep.", "s", 8,
					"histogram_quantile(0.99, sum by (http_route, le) (rate("+latency+ofRoute+"[$__rate_interval])))", "{{http_route}}"),
				quantiles("Latency of the chosen routes", "All chosen routes together. Dots are traces.", 8, latency+ofRoute),
			}},
			{"Policies", []panel{
				graphOf("Refusals", "Requests a second that a policy of a route has refused.", "reqps", 8,
					`sum by (keywarden_route, keywarden_policy) (rate(keywarden_policy_refusals_total{§keywarden_route=~"$route"}[$__rate_interval]))`, "{{keywarden_route}} {{keywarden_policy}}"),
				graphOf("Shadow refusals", "What policies in shadow mode would have refused or changed.", "reqps", 8,
					`sum by (keywarden_route, keywarden_policy) (rate(keywarden_policy_shadow_refusals_total{§keywarden_route=~"$route"}[$__rate_interval]))`, "{{keywarden_route}} {{keywarden_policy}}"),
				graphOf("Contract drift", "Answers of services that are not as the description of their API says.", "reqps", 8,
					`sum by (keywarden_route) (rate(keywarden_contract_drift_total{§keywarden_route=~"$route"}[$__rate_interval]))`, "{{keywarden_route}}"),
				graphOf("Cache", "Requests to routes that keep answers, by what became of them.", "reqps", 8,
					`sum by (keywarden_cache_outcome) (rate(keywarden_cache_requests_total{§keywarden_route=~"$route"}[$__rate_interval]))`, "{{keywarden_cache_outcome}}"),
				graphOf("Cache hits", "Share of those requests that did not ask the service.", "percentunit", 8,
					`sum by (keywarden_route) (rate(keywarden_cache_requests_total{§keywarden_route=~"$route",keywarden_cache_outcome=~"hit|stale|collapsed"}[$__rate_interval])) / sum by (keywarden_route) (rate(keywarden_cache_requests_total{§keywarden_route=~"$route"}[$__rate_interval]))`, "{{keywarden_route}}"),
				graphOf("Mirrored requests", "Requests that were chosen to be mirrored, by what became of the copy.", "reqps", 8,
					`sum by (keywarden_route, keywarden_outcome) (rate(keywarden_mirror_requests_total{§keywarden_route=~"$route"}[$__rate_interval]))`, "{{keywarden_route}} {{keywarden_outcome}}"),
			}},
			{"Services", []panel{
				graphOf("Requests to services", "Requests a second that were sent, retries included.", "reqps", 8,
					"sum by (keywarden_service) (rate(http_client_request_duration_seconds_count"+ofService+"[$__rate_interval]))", "{{keywarden_service}}"),
				graphOf("Failures of services", "Answers with a status from 400 on, and requests without an answer, by what happened.", "reqps", 8,
					`sum by (keywarden_service, error_type) (rate(http_client_request_duration_seconds_count{§keywarden_service=~"$service",error_type!=""}[$__rate_interval]))`, "{{keywarden_service}} {{error_type}}"),
				graphOf("p95 of services", "Time until the header of an answer, as the gateway sees it.", "s", 8,
					"histogram_quantile(0.95, sum by (keywarden_service, le) (rate(http_client_request_duration_seconds_bucket"+ofService+"[$__rate_interval])))", "{{keywarden_service}}"),
				graphOf("p95 of targets", "The same for each address.", "s", 8,
					"histogram_quantile(0.95, sum by (keywarden_service, server_address, server_port, le) (rate(http_client_request_duration_seconds_bucket"+ofService+"[$__rate_interval])))", "{{keywarden_service}} {{server_address}}:{{server_port}}"),
				graphOf("Available targets", "Share of the replicas that send requests to a target.", "percentunit", 8,
					"avg by (keywarden_service, keywarden_target) (keywarden_target_available"+ofService+")", "{{keywarden_service}} {{keywarden_target}}"),
				graphOf("In flight", "Requests that a target works on.", "short", 8,
					"sum by (keywarden_service, keywarden_target) (keywarden_target_in_flight"+ofService+")", "{{keywarden_service}} {{keywarden_target}}"),
				graphOf("Breakers", "Replicas whose breaker of a service is open.", "short", 8,
					"sum by (keywarden_service) (keywarden_service_breaker_open"+ofService+")", "{{keywarden_service}}"),
				graphOf("Looking targets up", "Changes of the targets that are looked up, and failures to do so, a second.", "ops", 8,
					"sum by (keywarden_service) (rate(keywarden_discovery_updates_total"+ofService+"[$__rate_interval]))", "{{keywarden_service}} changed").
					and("sum by (keywarden_service) (rate(keywarden_discovery_failures_total"+ofService+"[$__rate_interval]))", "{{keywarden_service}} failed"),
				graphOf("Tokens for services", "Questions to token endpoints a second, by what became of them.", "ops", 8,
					"sum by (keywarden_service, keywarden_outcome) (rate(keywarden_credential_token_fetches_total"+ofService+"[$__rate_interval]))", "{{keywarden_service}} {{keywarden_outcome}}"),
				graphOf("p95 of token endpoints", "Time that a question for a token takes.", "s", 8,
					"histogram_quantile(0.95, sum by (keywarden_service, le) (rate(keywarden_credential_token_fetch_duration_seconds_bucket"+ofService+"[$__rate_interval])))", "{{keywarden_service}}"),
			}},
		},
	}
}

func consumers() board {
	refused := func(policy string) string {
		return `sum by (keywarden_route) (rate(keywarden_policy_refusals_total{§keywarden_policy="` + policy + `"}[$__rate_interval]))`
	}
	return board{
		name: "consumers", title: "Keywarden / Keys and consumers",
		about: "What callers run into. No key and no user is a label of a metric.",
		rows: []row{
			{"Who in particular", []panel{{
				title: "Who in particular", kind: prose, width: 24,
				about: "Where to find single keys, users, apps and products.",
				text: "Metrics know no keys, users, apps, products or plans: there are too many, and they are somebody's. " +
					"`GET /admin/v1/analytics` has requests, errors, refusals by reason and latency by key, user, app, product, API and route, " +
					"`keywarden analytics` shows them at a terminal, and `GET /admin/v1/quotas` says who has used how much of what; see docs/guides/analytics.md.",
			}}},
			{"Credentials", []panel{
				graphOf("Refused credentials", "Requests a second without a good credential, by route. A rise is a deploy with an old key, or somebody who guesses.", "reqps", 8,
					refused("auth"), "{{keywarden_route}}"),
				graphOf("401, 403 and 429", "Answers a second that tell a caller no, of the platform's own API and of the gateway.", "reqps", 8,
					`sum by (http_response_status_code) (rate(`+requests+`{§http_response_status_code=~"401|403|429"}[$__rate_interval]))`, "{{http_response_status_code}}"),
				graphOf("Logins", "Answers a second of the login, by status.", "reqps", 8,
					`sum by (http_response_status_code) (rate(`+requests+`{§http_route="/auth/login"}[$__rate_interval]))`, "{{http_response_status_code}}"),
				graphOf("Keys in memory", "Keys that each replica knows without asking the database.", "short", 8, "keywarden_keys_cached{}", "{{instance}}"),
				graphOf("Canary keys", "Uses of canary keys within five minutes: each is a leak.", "short", 8, "sum(increase(keywarden_keys_canary_uses_total{}[5m]))", "uses").from(1, "red"),
				graphOf("Scopes not remembered", "Uses of scopes that were not remembered, for there are too many different ones.", "short", 8, "keywarden_keys_scope_uses_dropped{}", "{{instance}}"),
			}},
			{"Limits", []panel{
				graphOf("Refusals by policy", "Requests a second that were refused, by the policy that did.", "reqps", 8,
					"sum by (keywarden_policy) (rate(keywarden_policy_refusals_total{}[$__rate_interval]))", "{{keywarden_policy}}"),
				graphOf("Decisions of rate limits", "Decisions a second of the limits of routes and plans. replica: the counters did not answer, and the replica kept its share.", "ops", 8,
					"sum by (keywarden_outcome, keywarden_scope) (rate(keywarden_rate_limit_decisions_total{}[$__rate_interval]))", "{{keywarden_outcome}} {{keywarden_scope}}"),
				graphOf("Refused by rate limits", "The routes whose callers are refused most.", "reqps", 8, "topk(10, "+refused("rate_limit")+")", "{{keywarden_route}}"),
			}},
			{"Quotas", []panel{
				graphOf("Decisions of quotas", "Requests a second that count for a quota. unknown: refused because the ledger did not answer.", "ops", 8,
					"sum by (keywarden_outcome) (rate(keywarden_quota_decisions_total{}[$__rate_interval]))", "{{keywarden_outcome}}"),
				graphOf("Accounts nearly used", "Accounts of which 80 or 100 percent were used up within the hour.", "short", 8, "sum(increase(keywarden_quota_warnings_total{}[1h]))", "accounts"),
				graphOf("Units held", "Units that replicas have leased and not given out, and subjects that they know.", "short", 8,
					"sum(keywarden_quota_leased{})", "units").and("sum(keywarden_quota_subjects{})", "subjects"),
				graphOf("Not as it should be", "Units a second that were lost to their period or passed unmetered, and calls that the ledger did not answer.", "ops", 8,
					"sum(rate(keywarden_quota_lost_total{}[$__rate_interval]))", "lost").
					and("sum(rate(keywarden_quota_unmetered_total{}[$__rate_interval]))", "unmetered").
					and("sum(rate(keywarden_quota_ledger_failures_total{}[$__rate_interval]))", "ledger away"),
			}},
			{"Usage, analytics and alerts", []panel{
				graphOf("Usage in memory", "Combinations that are being counted and wait to be stored.", "short", 8, "keywarden_usage_cells{}", "{{instance}}"),
				graphOf("Usage not counted whole", "Requests a second counted by route alone or not at all, and failures to store.", "ops", 8,
					"sum(rate(keywarden_usage_folded_total{}[$__rate_interval]))", "by route alone").
					and("sum(rate(keywarden_usage_dropped_total{}[$__rate_interval]))", "not at all").
					and("sum(rate(keywarden_usage_failures_total{}[$__rate_interval]))", "not stored yet"),
				graphOf("Analytics lag", "Time since a replica last found all of usage summed up.", "s", 8, "min(keywarden_analytics_lag_seconds{})", "lag").from(3600, "red"),
				graphOf("Alert rules", "Rules of the platform's own alerts that are enabled, by whether they fire.", "short", 8,
					"max by (keywarden_state) (keywarden_alert_rules{})", "{{keywarden_state}}"),
				graphOf("Alert deliveries", "Attempts a second to tell of an alert, by channel and by what became of them.", "ops", 8,
					"sum by (keywarden_channel, keywarden_outcome) (rate(keywarden_alert_deliveries_total{}[$__rate_interval]))", "{{keywarden_channel}} {{keywarden_outcome}}"),
			}},
		},
	}
}

func stores() board {
	return board{
		name: "stores", title: "Keywarden / Database and Redis",
		about: "What the replicas need of PostgreSQL and Redis, and how fast they hear of changes.",
		rows: []row{
			{"PostgreSQL", []panel{
				graphOf("Connections in use", "Share of the pool that is in use. Near 1, requests wait.", "percentunit", 8,
					"keywarden_db_connections_in_use{} / keywarden_db_connections_max{}", "{{instance}}").from(0.9, "red"),
				graphOf("Connections", "Open connections, and those that nobody uses.", "short", 8,
					"sum(keywarden_db_connections{})", "open").and("sum(keywarden_db_connections_idle{})", "idle").and("sum(keywarden_db_connections_max{})", "most"),
				graphOf("Connections taken", "Times a second that a connection was taken from the pool: about the statements.", "ops", 8,
					"rate(keywarden_db_acquires_total{}[$__rate_interval])", "{{instance}}"),
				graphOf("Waits", "Times a second that none was free, and that one gave up.", "ops", 8,
					"sum(rate(keywarden_db_waits_total{}[$__rate_interval]))", "waited").and("sum(rate(keywarden_db_waits_cancelled_total{}[$__rate_interval]))", "gave up"),
				graphOf("Time of waits", "Average time that one waits when none is free.", "s", 8,
					"sum by (instance) (rate(keywarden_db_wait_time_seconds_total{}[$__rate_interval])) / (sum by (instance) (rate(keywarden_db_waits_total{}[$__rate_interval])) > 0)", "{{instance}}"),
				graphOf("Replicas", "Replicas that say in the database that they live, and those that Prometheus reaches.", "short", 8,
					"max(keywarden_replicas{})", "in the database").and("sum(up{})", "scraped"),
			}},
			{"Changes", []panel{
				graphOf("Lag", "Time since each replica last knew every revocation; beyond the limit it honours no known credential.", "s", 8,
					"keywarden_changes_lag_seconds{}", "{{instance}}").and("max(keywarden_changes_max_staleness_seconds{})", "limit"),
				quantiles("Propagation", "From a change, such as a revoked key, until the replicas had applied it.", 8, "keywarden_changes_propagation_seconds_bucket{}"),
				graphOf("Changes", "Changes a second that replicas have applied, by kind.", "ops", 8,
					"sum by (keywarden_change) (rate(keywarden_changes_propagation_seconds_count{}[$__rate_interval]))", "{{keywarden_change}}"),
			}},
			{"Redis and counters", []panel{
				graphOf("Counters answer", "1 while the store of the rate limits' counters answers. At 0 each replica keeps its share.", "short", 8, "keywarden_counters_available{}", "{{instance}}"),
				graphOf("Counters failed", "Times a second that they were found not to answer.", "ops", 8, "rate(keywarden_counters_failures_total{}[$__rate_interval])", "{{instance}}"),
				graphOf("Connections to Redis", "Open connections by state.", "short", 8, "sum by (keywarden_state) (keywarden_redis_connections{})", "{{keywarden_state}}"),
				graphOf("Connections to Redis taken", "Times a second that one was needed. timeout: none could be had in time.", "ops", 8,
					"sum by (keywarden_outcome) (rate(keywarden_redis_acquires_total{}[$__rate_interval]))", "{{keywarden_outcome}}"),
				graphOf("Memory of answers", "Memory of the answers that each replica keeps; none where they are in Redis.", "bytes", 8, "keywarden_cache_size_bytes{}", "{{instance}}"),
				graphOf("Answers kept", "Answers in memory, and answers a second that are put there.", "short", 8,
					"sum(keywarden_cache_entries{})", "in memory").and("sum(rate(keywarden_cache_stores_total{}[$__rate_interval]))", "stored a second"),
			}},
		},
	}
}

// objectives is about all replicas: the rules add them up.
func objectives() board {
	burn := func(what, share string) panel {
		p := panel{kind: graph, unit: "short", width: 12}
		for _, window := range []string{"5m", "30m", "1h", "6h"} {
			p.of = append(p.of, query{expr: fmt.Sprintf(`job:keywarden_%s:ratio_%s{job="$job"} / %s`, what, window, share), legend: window})
		}
		return p.from(6, "orange").from(14.4, "red")
	}
	availability, fast := burn("errors", "0.001"), burn("slow", "0.01")
	availability.title, fast.title = "Burn rate of availability", "Burn rate of latency"
	availability.about = "How many times faster than in 30 days the allowed errors are used up. The alerts fire above 14.4 over 1h and 5m, and above 6 over 6h and 30m."
	fast.about = "The same for requests that take longer than 100 ms."
	return board{
		name: "objectives", title: "Keywarden / Objectives",
		about: "99.9 % of requests are answered, and 99 % within 100 ms, over 30 days. The rules are in configs/prometheus/rules/recording.yml.",
		rows: []row{
			{"Budgets", []panel{
				figureOf("Errors that are left", "Share of the errors allowed in 30 days that was not used up.", "percentunit",
					`job:keywarden_availability_budget:remaining_30d{job="$job"}`, step{-1e9, "red"}, step{0.1, "orange"}, step{0.5, "green"}).wide(6),
				figureOf("Slow requests that are left", "Share of the requests over 100 ms allowed in 30 days that was not used up.", "percentunit",
					`job:keywarden_latency_budget:remaining_30d{job="$job"}`, step{-1e9, "red"}, step{0.1, "orange"}, step{0.5, "green"}).wide(6),
				figureOf("Errors within the hour", "Share of requests that failed within the last hour.", "percentunit",
					`job:keywarden_errors:ratio_1h{job="$job"}`, step{0.001, "orange"}, step{0.0144, "red"}).wide(6),
				figureOf("Slow within the hour", "Share of requests over 100 ms within the last hour.", "percentunit",
					`job:keywarden_slow:ratio_1h{job="$job"}`, step{0.01, "orange"}, step{0.144, "red"}).wide(6),
			}},
			{"Burn rates", []panel{availability, fast}},
			{"Behind it", []panel{
				graphOf("Requests", "Requests a second that count.", "reqps", 8, `job:keywarden_requests:rate5m{job="$job"}`, "requests"),
				graphOf("Errors and slow requests", "Requests a second that use up a budget.", "reqps", 8,
					`job:keywarden_errors:rate5m{job="$job"}`, "errors").and(`job:keywarden_slow:rate5m{job="$job"}`, "over 100 ms"),
				graphOf("Latency", "Percentiles over five minutes.", "s", 8, `job:keywarden_latency:p50_5m{job="$job"}`, "p50").
					and(`job:keywarden_latency:p95_5m{job="$job"}`, "p95").and(`job:keywarden_latency:p99_5m{job="$job"}`, "p99").from(0.1, "orange"),
				graphOf("Requests by route", "The routes with the most requests.", "reqps", 24, `topk(10, job_route:keywarden_requests:rate5m{job="$job"})`, "{{http_route}}"),
			}},
		},
	}
}
