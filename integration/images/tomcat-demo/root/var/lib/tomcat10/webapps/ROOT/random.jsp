<%@ page contentType="application/json; charset=UTF-8" session="false" import="java.security.*,java.util.*,java.util.concurrent.*" %><%!
  private final Random random = new Random();
  private final SecureRandom secure = new SecureRandom();
%>{"random": <%= random.nextDouble() %>, "thread": <%= ThreadLocalRandom.current().nextDouble() %>, "math": <%= Math.random() %>, "uuid": "<%= UUID.randomUUID() %>", "secure": <%= secure.nextLong() %>}
