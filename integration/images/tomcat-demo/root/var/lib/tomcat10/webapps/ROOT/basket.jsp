<%@ page contentType="text/plain; charset=UTF-8" import="java.util.*,java.util.concurrent.atomic.*" %><%!
  private final AtomicLong visits = new AtomicLong();
%><%
  @SuppressWarnings("unchecked")
  List<String> basket = (List<String>) session.getAttribute("basket");
  if (basket == null) {
    session.setAttribute("basket", basket = new ArrayList<>());
  }
  basket.add(Optional.ofNullable(request.getParameter("item")).orElse("item-" + visits.get()));
%>visits <%= visits.incrementAndGet() %>
session <%= session.getId() %>
basket <%= basket %>
