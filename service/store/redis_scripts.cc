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

// Whether writes that were acknowledged to this client are gone.
const char kWentBack[] = R"(
local function went_back(epochs, done, acknowledged)
  return tonumber(redis.call('HGET', epochs, done) or 0) < tonumber(acknowledged)
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
  redis.call('HSET', epochs, done, ARGV[1])
  return answer
end
local newest = redis.call('HGET', epochs, 'newest')
)";

const char kFence[] = R"(
if not newest or tonumber(newest) <= tonumber(ARGV[3]) then
  if went_back(epochs, done, ARGV[2]) then return {'BACK'} end
end
if newest ~= ARGV[3] then return {'FENCED', newest or '0'} end
)";

const char kFindLog[] = R"(
local first, last = range(log, records)
if not first then return finish(last) end
)";

std::string Write(const std::string& fence, const std::string& body) {
  return kNumbers + std::string(kWentBack) + kWrite + fence + body;
}

const std::string kFenceOfLog = kFence + std::string(kFindLog);

}  // namespace

const std::string kClaim = Write("", R"(
local held = tonumber(ARGV[5])
if held > 0 and newest and tonumber(newest) > held and
   redis.call('HGET', epochs, 'holder') ~= done then
  return {'FENCED', newest}
end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local epoch = text(math.max(now, tonumber(newest or 0) + 1, tonumber(ARGV[3])))
redis.call('HSET', epochs, 'newest', epoch, epoch, ARGV[4], 'holder', done, 'format', '1')
return finish({'OK', epoch})
)");

const std::string kCreate = Write(kFence, R"(
local name, request, digest = ARGV[4], ARGV[5], ARGV[6]
if request ~= '' then
  local known = redis.call('HGET', requests, request)
  if known then
    known = cmsgpack.unpack(known)
    return finish({'KNOWN', known[1], known[2]})
  end
end
if redis.call('EXISTS', log, records) > 0 then return finish({'EXISTS'}) end
for i = 7, #ARGV do redis.call('RPUSH', records, ARGV[i]) end
redis.call('HSET', log, 'first', '1', 'last', text(#ARGV - 6), 'request', request)
redis.call('ZADD', logs, '0', name)
if request ~= '' then redis.call('HSET', requests, request, cmsgpack.pack({name, digest})) end
return finish({'OK'})
)");

const std::string kAppend = Write(kFenceOfLog, R"(
if text(last) ~= ARGV[4] then return finish({'MOVED', text(last)}) end
for i = 5, #ARGV do redis.call('RPUSH', records, ARGV[i]) end
last = text(last + #ARGV - 4)
redis.call('HSET', log, 'last', last)
return finish({'OK', last})
)");

const std::string kCompact = Write(kFenceOfLog, R"(
local through = tonumber(ARGV[4])
if through > last then return finish({'BEYOND', text(last)}) end
if through >= first then
  redis.call('LTRIM', records, text(through - first), '-1')
  redis.call('LSET', records, '0', ARGV[5])
  redis.call('HSET', log, 'first', text(through))
end
return finish({'OK'})
)");

const std::string kPut = Write(kFence, R"(
local name, request, digest, revision = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local former = redis.call('HGET', log, 'request')
if former and former ~= '' then redis.call('HDEL', requests, former) end
redis.call('UNLINK', log, records)
redis.call('RPUSH', records, ARGV[8])
redis.call('HSET', log, 'first', revision, 'last', revision, 'request', request)
redis.call('ZADD', logs, '0', name)
if request ~= '' then redis.call('HSET', requests, request, cmsgpack.pack({name, digest})) end
return finish({'OK'})
)");

const std::string kDelete = Write(kFence, R"(
local request = redis.call('HGET', log, 'request')
if request and request ~= '' then redis.call('HDEL', requests, request) end
redis.call('UNLINK', log, records)
redis.call('ZREM', logs, ARGV[4])
return finish({'OK'})
)");

const std::string kRead = std::string(kNumbers) + kWentBack + R"(
local log, records, epochs, done = unpack(KEYS)
if went_back(epochs, done, ARGV[3]) then return {'BACK'} end
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
