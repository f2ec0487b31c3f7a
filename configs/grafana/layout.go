package main

// board is a dashboard, row after row.
type board struct {
	name, title, about string
	variables          []variable
	rows               []row
}

// row is a headline with what stands below it, from left to right; what has no place
// any more goes on below.
type row struct {
	title  string
	panels []panel
}

// variable is a choice of the reader, from the values of a label.
type variable struct{ name, label, values, regex string }

// panel is one figure or one graph.
type panel struct {
	title string
	about string // what it shows, and what to do about it
	kind  kind
	unit  string // of Grafana: reqps, s, percentunit, bytes, short, …
	width int    // of 24
	steps []step // colours from a value on
	max   float64
	of    []query
	text  string // of a panel of the kind text
}

// kind is how a panel looks.
type kind string

const (
	graph  kind = "timeseries"
	figure kind = "stat"
	table  kind = "table"
	prose  kind = "text"
)

// query is one expression of PromQL. In legend, {{label}} is the value of a label.
type query struct {
	expr, legend string
	exemplars    bool // dots that lead to traces
}

// step is a colour from a value on.
type step struct {
	from   float64
	colour string
}

const (
	columns     = 24
	rowHeight   = 1
	figureSize  = 4
	graphHeight = 8
	schema      = 39 // of Grafana 11
)

// object is a JSON object.
type object = map[string]any

// source is the data source that the reader chooses.
func source() object { return object{"type": "prometheus", "uid": "${datasource}"} }

// dashboard is the board as Grafana reads it.
func (b board) dashboard() object {
	var panels []object
	id, y := 0, 0
	for _, r := range b.rows {
		id++
		panels = append(panels, object{
			"id": id, "type": "row", "title": r.title, "collapsed": false, "panels": []object{},
			"gridPos": object{"x": 0, "y": y, "w": columns, "h": rowHeight},
		})
		y += rowHeight
		x, height := 0, 0
		for _, p := range r.panels {
			if x+p.width > columns {
				x, y, height = 0, y+height, 0
			}
			id++
			panels = append(panels, p.json(id, object{"x": x, "y": y, "w": p.width, "h": p.height()}))
			x, height = x+p.width, max(height, p.height())
		}
		y += height
	}
	return object{
		"uid": "keywarden-" + b.name, "title": b.title, "description": b.about, "tags": []string{"keywarden"},
		"schemaVersion": schema, "version": 1, "editable": false, "graphTooltip": 1, "refresh": "30s", "timezone": "browser",
		"time":       object{"from": "now-1h", "to": "now"},
		"templating": object{"list": b.choices()},
		"links": []object{{
			"type": "dashboards", "tags": []string{"keywarden"}, "title": "Keywarden", "asDropdown": true, "keepTime": true, "includeVars": true,
		}},
		"panels": panels,
	}
}

// choices are the variables of a board: those that all have, and its own.
func (b board) choices() []object {
	list := []object{{
		"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "refresh": 1,
		"current": object{}, "hide": 0,
	}}
	for _, v := range append([]variable{
		{"job", "Job", "label_values(keywarden_build_info, job)", ""},
		{"instance", "Replica", `label_values(keywarden_build_info{job="$job"}, instance)`, ""},
	}, b.variables...) {
		one := object{
			"name": v.name, "label": v.label, "type": "query", "datasource": source(), "definition": v.values,
			"query": object{"query": v.values, "refId": v.name}, "regex": v.regex, "refresh": 2, "sort": 1, "hide": 0,
		}
		if v.name != "job" {
			one["multi"], one["includeAll"], one["allValue"] = true, true, ".*"
			one["current"] = object{"text": []string{"All"}, "value": []string{"$__all"}}
		}
		list = append(list, one)
	}
	return list
}

func (p panel) height() int {
	if p.kind == figure {
		return figureSize
	}
	return graphHeight
}

// json is the panel as Grafana reads it.
func (p panel) json(id int, place object) object {
	out := object{"id": id, "type": string(p.kind), "title": p.title, "description": p.about, "gridPos": place}
	if p.kind == prose {
		out["options"] = object{"mode": "markdown", "content": p.text}
		return out
	}
	targets := make([]object, len(p.of))
	for i, q := range p.of {
		targets[i] = object{
			"refId": string(rune('A' + i)), "datasource": source(), "expr": q.expr, "legendFormat": q.legend,
			"range": p.kind == graph, "instant": p.kind != graph, "exemplar": q.exemplars, "editorMode": "code",
		}
		if p.kind == table {
			targets[i]["format"] = "table"
		}
	}
	out["datasource"], out["targets"] = source(), targets
	out["fieldConfig"] = object{"defaults": p.defaults(), "overrides": []object{}}
	out["options"] = p.options()
	return out
}

// defaults are how values are shown.
func (p panel) defaults() object {
	steps := []object{{"value": nil, "color": "green"}}
	for _, s := range p.steps {
		steps = append(steps, object{"value": s.from, "color": s.colour})
	}
	d := object{
		"unit": p.unit, "min": 0,
		"color":      object{"mode": "palette-classic"},
		"thresholds": object{"mode": "absolute", "steps": steps},
	}
	if p.kind == figure {
		d["color"] = object{"mode": "thresholds"}
		delete(d, "min") // what is left may be below 0
	}
	if p.max > 0 {
		d["max"] = p.max
	}
	if p.kind == graph {
		d["custom"] = object{"drawStyle": "line", "lineWidth": 1, "fillOpacity": 10, "showPoints": "never", "spanNulls": false}
		if len(p.steps) > 0 {
			d["custom"].(object)["thresholdsStyle"] = object{"mode": "dashed"}
		}
	}
	return d
}

// options are those of the kind of panel.
func (p panel) options() object {
	switch p.kind {
	case figure:
		return object{
			"reduceOptions": object{"calcs": []string{"lastNotNull"}, "fields": "", "values": false},
			"colorMode":     "value", "graphMode": "none", "textMode": "auto",
		}
	case table:
		return object{"showHeader": true}
	default:
		return object{
			"legend":  object{"displayMode": "list", "placement": "bottom", "showLegend": true},
			"tooltip": object{"mode": "multi", "sort": "desc"},
		}
	}
}
