#include "service/store/redis_scripts.h"

namespace cvxq::redis_scripts {
namespace {

// Numbers beyond 14 digits need a format: tostring would give them an exponent.
const char kNumbers[] = R"(
local function text(number) return string.format('%.0f', number) end
-- The revisions of a log, or nothing and why.
local function range(log, records)
  local first, last = unpack(redis.call('HMGET', log, 'first', 'last'))
  local length = redis.call('LLEN', records)
  if not last and length == 0 then return nil, {'MISSING'} end
  first, last = tonumber(first), tonumber(last)
  if not first or not last or length ~= last - first + 1 then return nil, {'LOST'} end
  return first, last
end
)";

// A write that has been done gives its answer again. `finish` ends every write whose epoch is the
// newest, also one that changes nothing: a sending of it that arrives late must not change
// anything either.
const char kWrite[] = R"(
local epochs, done, logs, requests, log, records = unpack(KEYS)
local sequence = tonumber(ARGV[1])
local past = redis.call('GET', done)
if past then
  past = cmsgpack.unpack(past)
  if past[1] == sequence then return past[2] end
  if past[1] > sequence then return {'STALE'} end
end
local function finish(answer)
  redis.call('SET', done, cmsgpack.pack({sequence, answer}), 'EX', 3600)
  return answer
end
local newest = redis.call('HGET', epochs, 'newest')
)";

const char kFence[] = R"(
if newest ~= ARGV[2] then return {'FENCED', newest or '0'} end
)";

// As above, but a log that is gone together with all epochs is said to be missing.
const char kFenceOfLog[] = R"(
if newest ~= ARGV[2] then
  if not newest and redis.call('EXISTS', log, records) == 0 then return {'MISSING'} end
  return {'FENCED', newest or '0'}
end
local first, last = range(log, records)
if not first then return finish(last) end
)";

std::string Write(const std::string& fence, const std::string& body) {
  return kNumbers + std::string(kWrite) + fence + body;
}

}  // namespace

const std::string kClaim = Write("", R"(
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local epoch = text(math.max(now, tonumber(newest or 0) + 1, tonumber(ARGV[2])))
redis.call('HSET', epochs, 'newest', epoch, epoch, ARGV[3], 'format', '1')
return finish({'OK', epoch})
)");

const std::string kCreate = Write(kFence, R"(
local name, request, digest = ARGV[3], ARGV[4], ARGV[5]
if request ~= '' then
  local known = redis.call('HGET', requests, request)
  if known then
    known = cmsgpack.unpack(known)
    return finish({'KNOWN', known[1], known[2]})
  end
end
if redis.call('EXISTS', log, records) > 0 then return finish({'EXISTS'}) end
for i = 6, #ARGV do redis.call('RPUSH', records, ARGV[i]) end
redis.call('HSET', log, 'first', '1', 'last', text(#ARGV - 5), 'request', request)
redis.call('ZADD', logs, '0', name)
if request ~= '' then redis.call('HSET', requests, request, cmsgpack.pack({name, digest})) end
return finish({'OK'})
)");

const std::string kAppend = Write(kFenceOfLog, R"(
if text(last) ~= ARGV[3] then return finish({'MOVED', text(last)}) end
for i = 4, #ARGV do redis.call('RPUSH', records, ARGV[i]) end
last = text(last + #ARGV - 3)
redis.call('HSET', log, 'last', last)
return finish({'OK', last})
)");

const std::string kCompact = Write(kFenceOfLog, R"(
local through = tonumber(ARGV[3])
if through > last then return finish({'BEYOND', text(last)}) end
if through >= first then
  redis.call('LTRIM', records, text(through - first), '-1')
  redis.call('LSET', records, '0', ARGV[4])
  redis.call('HSET', log, 'first', text(through))
end
return finish({'OK'})
)");

const std::string kDelete = Write(kFence, R"(
local request = redis.call('HGET', log, 'request')
if request and request ~= '' then redis.call('HDEL', requests, request) end
redis.call('UNLINK', log, records)
redis.call('ZREM', logs, ARGV[3])
return finish({'OK'})
)");

const std::string kRead = std::string(kNumbers) + R"(
local log, records = unpack(KEYS)
local after, limit = tonumber(ARGV[1]), tonumber(ARGV[2])
local first, last = range(log, records)
if not first then return last end
if after > last then return {'BEYOND', text(last)} end
if after > 0 and after < first - 1 then return {'COMPACTED', text(first)} end
local from = math.max(after + 1 - first, 0)
return {'OK', text(first + from),
        redis.call('LRANGE', records, text(from), text(from + limit - 1))}
)";

}  // namespace cvxq::redis_scripts
