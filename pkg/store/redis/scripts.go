package redis

// The scripts count as ratelimit.Limit does, in microseconds: a double holds those
// of Unix time exactly, and not nanoseconds. They answer with the units that were
// granted, those that remain, and after how many microseconds to try again and to
// have everything back.
const (
	gcra = `
local window, quota, burst = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local least, want = tonumber(ARGV[4]), tonumber(ARGV[5])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval = window / quota
local tolerance = interval * burst
local kept = tonumber(redis.call('GET', KEYS[1]) or '0')
if kept - now > 2 * tolerance + window + 60000000 then -- the clock was set back
  kept = now + tolerance
  redis.call('SET', KEYS[1], string.format('%.3f', kept), 'PX', math.ceil(tolerance / 1000) + 1)
end
local full = math.max(now, kept)
local function left(full) return math.max(0, math.floor((now + tolerance - full) / interval + 0.000001)) end
local units, retry = math.min(math.max(least, want), math.max(least, left(full))), 0
local largest = burst
if burst == 1 then largest = quota end
if least > largest then
  units = 0
else
  local over = full + math.min(units, burst) * interval - now - tolerance
  if over > 0.5 and units > 0 then
    units, retry = 0, math.ceil(over)
  elseif units > 0 then
    full = full + units * interval
    redis.call('SET', KEYS[1], string.format('%.3f', full), 'PX', math.ceil((full - now) / 1000) + 1)
  end
end
return {units, left(full), retry, math.ceil(full - now)}
`

	sliding = `
local window, quota = tonumber(ARGV[1]), tonumber(ARGV[2])
local least, want = tonumber(ARGV[4]), tonumber(ARGV[5])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local number, into = math.floor(now / window), now % window
local at, current, previous = number, 0, 0
local kept = redis.call('GET', KEYS[1])
if kept then
  local a, c, p = string.match(kept, '(%d+) (%d+) (%d+)')
  at, current, previous = tonumber(a), tonumber(c), tonumber(p)
  if number == at + 1 then
    at, previous, current = number, current, 0
  elseif number > at then
    at, previous, current = number, 0, 0
  elseif number < at then -- the clock was set back: what was used stays used, for two windows and a minute at most
    if (at - 1 - number) * window <= 60000000 then
      into = 0
    else
      at, previous, current = number, 0, math.min(quota, current + previous)
      redis.call('SET', KEYS[1], string.format('%d %d %d', at, current, previous), 'PX', math.ceil(2 * window / 1000))
    end
  end
end
local used = current + math.floor(previous * (window - into) / window)
local room = quota - used
local units, retry = math.min(math.max(least, want), math.max(least, room)), 0
if least > quota then
  units = 0
elseif units > room then
  units = 0
  local free = quota - least
  if current <= free and previous > 0 then
    retry = math.max(1, window - into - math.floor((free - current) * window / previous))
  else
    retry = window - into
    if current > free then
      retry = retry + window - math.floor(free * window / current)
    end
  end
elseif units > 0 then
  current = current + units
  redis.call('SET', KEYS[1], string.format('%d %d %d', at, current, previous), 'PX', math.ceil(2 * window / 1000))
end
return {units, math.max(0, room - units), math.ceil(retry), 2 * window - into}
`
)
